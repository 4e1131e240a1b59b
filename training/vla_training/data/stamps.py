# SPDX-License-Identifier: Apache-2.0
"""The time that a message says it is of."""

from typing import Any

SECOND = 1_000_000_000


def message_stamp(message: Any) -> int | None:
    """Stamp of a message in ns; None for a type that has none.

    It is ``header.stamp``, and ``timestamp`` where there is no header (Foxglove's types).
    """
    header = getattr(message, "header", None)
    stamp = getattr(message, "timestamp", None) if header is None else header.stamp
    return None if stamp is None else stamp.sec * SECOND + stamp.nanosec
