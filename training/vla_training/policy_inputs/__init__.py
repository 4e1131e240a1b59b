# SPDX-License-Identifier: Apache-2.0
"""Recorded frames as a policy takes them, in training and after it."""
