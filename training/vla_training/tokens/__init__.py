# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that are fitted to a dataset: of its texts, and of its actions."""
