# SPDX-License-Identifier: Apache-2.0
"""The error of bags, and how text and failures out of a bag are shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from vla_training.data.errors import DataError


class BagError(DataError):
    """A bag that cannot be read, or a request that it cannot meet."""


def shown(value: object, limit: int = 120) -> str:
    """Text from outside on one line: control characters escaped, length bounded."""
    text = str(value)
    text = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def bag_errors(where: object) -> Iterator[None]:
    """Turns whatever a parser raises on damaged or hostile bytes into a ``BagError``.

    Parsers of binary files raise nearly anything on bytes that are no such file, from
    ``struct.error`` to ``MemoryError``: there is no shorter list than ``Exception``.

    Args:
        where: What was being read; begins the text.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = shown(error) or "it is damaged"
        raise BagError(f"{shown(where, 500)}: {reason} ({type(error).__name__})") from error
