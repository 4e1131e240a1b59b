# SPDX-License-Identifier: Apache-2.0
"""What the energy check learns from, and how it is calibrated."""
