# SPDX-License-Identifier: Apache-2.0
"""The error of training."""


class TrainingError(Exception):
    """A training that cannot be begun or go on.

    The text is one line: what was wrong, where, and what would be right.
    """
