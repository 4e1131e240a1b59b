# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and the launcher's request to stop, heard between steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HEARD = b"\nstopping after this step; once more to stop at once\n"


@contextmanager
def heard_interruption() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process as usual."""
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hear(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        restore()
        os.write(2, _HEARD)  # print may be what was interrupted

    for number in _SIGNALS:
        signal.signal(number, hear)
    try:
        yield asked
    finally:
        restore()
