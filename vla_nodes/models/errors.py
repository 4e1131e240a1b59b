# SPDX-License-Identifier: Apache-2.0
"""The error of checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager


class CheckpointError(ValueError):
    """A checkpoint, or a part of one, that cannot be used.

    The text is one line: what was wrong, where, and what would be right.
    """

    def __init__(self, text: str) -> None:
        # Names out of files may break lines, or steer the terminal that shows them.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


@contextmanager
def faults_of(place: object) -> Iterator[None]:
    """Puts the place in front of the faults found inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from error.__cause__
