# SPDX-License-Identifier: Apache-2.0
"""The camera for people, rendered beside the physics.

Its shadows take tens of milliseconds on a CPU, which the physics cannot wait for. A second arm,
in a thread of its own, poses as the first one did and is rendered.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable

import numpy as np

from vla_nodes.sim.arm import TabletopArm

STOP_TIMEOUT = 5.0  # s


class OverviewRenderer:
    """Renders the newest snapshot; one that comes while another is waiting replaces it.

    Args:
        width: Pixels.
        height: Pixels.
        done: Called in the renderer's thread with each picture (height, width, 3) uint8 RGB and
            the stamp that came with its snapshot.
        failed: Called once with a traceback, should the renderer fail.
    """

    def __init__(
        self,
        width: int,
        height: int,
        done: Callable[[np.ndarray, int], None],
        failed: Callable[[str], None],
    ) -> None:
        self._size = (width, height)
        self._done = done
        self._failed = failed
        self._waiting: tuple[np.ndarray, int] | None = None
        self._running = True
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="overview", daemon=True)
        self._thread.start()

    def show(self, snapshot: np.ndarray, stamp: int) -> None:
        """Have a snapshot of a ``TabletopArm`` rendered; returns at once."""
        with self._wake:
            self._waiting = (snapshot, stamp)
            self._wake.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._wake:
            self._running = False
            self._wake.notify()
        self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        try:
            with contextlib.closing(TabletopArm()) as arm:
                while (order := self._next()) is not None:
                    snapshot, stamp = order
                    arm.show(snapshot)
                    self._done(arm.render("overview", *self._size), stamp)
        except Exception:
            self._failed(traceback.format_exc())

    def _next(self) -> tuple[np.ndarray, int] | None:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting is not None or not self._running)
            order, self._waiting = self._waiting, None
            return order if self._running else None
