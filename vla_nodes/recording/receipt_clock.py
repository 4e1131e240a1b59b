# SPDX-License-Identifier: Apache-2.0
"""Times of receipt."""

import time
from collections.abc import Callable


def steady_wall_clock(
    wall: Callable[[], int] = time.time_ns, steady: Callable[[], int] = time.monotonic_ns
) -> Callable[[], int]:
    """The time of day as of now, carried on by the steady clock: no step of the system's shows.

    Returns:
        A clock in nanoseconds since 1970.
    """
    offset = wall() - steady()
    return lambda: steady() + offset
