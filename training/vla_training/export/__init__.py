# SPDX-License-Identifier: Apache-2.0
"""Trained models in forms that other runtimes read."""
