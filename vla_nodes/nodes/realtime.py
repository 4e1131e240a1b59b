# SPDX-License-Identifier: Apache-2.0
"""A loop at a fixed rate on the steady clock, as punctual as the machine allows.

Deadlines are absolute, so errors do not add up; ticks that are missed are skipped and never
caught up. Scheduling priority and locked memory are used where permitted and reported, never
required.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable

SWITCH_INTERVAL = 0.0005  # s; how long another thread may keep the interpreter
_MCL_CURRENT_AND_FUTURE = 3


def prepare_process() -> None:
    """Keep the garbage collector and long holds of the interpreter out of the loop's way.

    To be called when everything is loaded. Cyclic garbage is not collected afterwards: whoever
    calls this makes none in steady state.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL)


def raise_priority(priority: int, lock_memory: bool = False) -> str:
    """Give this process real-time priority, and lock its memory; returns what was permitted.

    To be called before any thread is started: threads inherit it. All of them need it, because
    a thread that is held off the processor while it holds the interpreter holds up the loop.
    """
    granted = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        granted.append("SCHED_FIFO")
    except (PermissionError, OSError):
        pass
    if lock_memory and ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE) == 0:
        granted.append("mlockall")
    return ", ".join(granted) or "none permitted"


def fixed_rate(rate: float, tick: Callable[[int, int], None], running: Callable[[], bool]) -> None:
    """Call ``tick(steady_ns, late_ns)`` at ``rate`` Hz while ``running()``.

    ``steady_ns`` is the monotonic time of the call and ``late_ns`` its distance from the deadline.
    """
    period = round(1e9 / rate)
    deadline = time.monotonic_ns() + period
    while running():
        wait = deadline - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait * 1e-9)
        now = time.monotonic_ns()
        tick(now, now - deadline)
        missed = (time.monotonic_ns() - deadline) // period
        deadline += period * max(1, missed + 1)
