# SPDX-License-Identifier: Apache-2.0
"""Validation of bags and datasets."""
