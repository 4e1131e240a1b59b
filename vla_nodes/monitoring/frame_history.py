# SPDX-License-Identifier: Apache-2.0
"""Earlier frames of a camera, for models that look at a short history."""

from collections import deque


class FrameHistory[F]:
    """Keeps what was made of frames for as long as an estimate may look back.

    Args:
        count: Frames that an estimate looks at, the newest among them.
        step: Seconds between those.
    """

    def __init__(self, count: int, step: float) -> None:
        self._count = count
        self._step = round(step * 1e9)
        self._frames: deque[tuple[int, F]] = deque()

    def clear(self) -> None:
        """Forgets all, as for a new task: in training, nothing came before it."""
        self._frames.clear()

    def add(self, stamp: int, frame: F) -> None:
        """Appends a frame of ``stamp`` ns; one from before the newest begins anew."""
        if self._frames and stamp <= self._frames[-1][0]:
            self._frames.clear()
        self._frames.append((stamp, frame))
        oldest = stamp - (self._count - 1) * self._step
        # The last one before the oldest that is asked for may be the nearest to it.
        while len(self._frames) > 1 and self._frames[1][0] <= oldest:
            self._frames.popleft()

    def frames(self) -> list[F]:
        """What to look at, oldest first: of each time the nearest frame that there is.

        At the beginning of a stream, that is its first frame again and again.

        Raises:
            LookupError: Nothing was added.
        """
        if not self._frames:
            raise LookupError("no frame has been added")
        newest = self._frames[-1][0]
        times = [newest - back * self._step for back in reversed(range(self._count))]
        return [min(self._frames, key=lambda frame: abs(frame[0] - at))[1] for at in times]
