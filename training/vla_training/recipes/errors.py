# SPDX-License-Identifier: Apache-2.0
"""The error of training, and how the commands tell errors."""


class TrainingError(Exception):
    """A training that cannot be begun or go on.

    The text is one line: what was wrong, where, and what would be right.
    """


def last_line(error: Exception) -> str:
    """The error itself: that of a loading process comes with its traceback before it."""
    return (
        (str(error).strip() or repr(error))
        .splitlines()[-1]
        .removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    )
