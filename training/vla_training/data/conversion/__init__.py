# SPDX-License-Identifier: Apache-2.0
"""``vla-convert``: which episodes there are, and their conversion in many processes."""
