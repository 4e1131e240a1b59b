# SPDX-License-Identifier: Apache-2.0
"""What a trained model is worth: metrics, reports and plots."""
