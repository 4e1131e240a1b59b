# SPDX-License-Identifier: Apache-2.0
"""The error of everything that reads or writes data."""


class DataError(Exception):
    """Data that cannot be used, or a request that cannot be met.

    The text is one line: what was wrong, where, and what would be right.
    """
