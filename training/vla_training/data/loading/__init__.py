# SPDX-License-Identifier: Apache-2.0
"""Datasets as training wants them: split by episode, augmented, collated."""
