# SPDX-License-Identifier: Apache-2.0
"""The true progress of a task on the simulated table, told as a value monitor would."""

from collections import deque
from dataclasses import dataclass

from vla_nodes.sim.arm import TabletopArm

TREND_WINDOW = 2.0  # s
STALL_WINDOW = 8.0  # s without a new best counts as a stall
GAIN = 0.01  # least progress that counts as a gain


@dataclass(frozen=True)
class Progress:
    """How a task stands.

    Attributes:
        value: In [-1, 0]; 0 is done.
        trend: Its slope per second over the last two seconds.
        finished: The task is done.
        subtask_finished: The subtask is done.
        stalled: No gain for a while.
    """

    value: float
    trend: float
    finished: bool
    subtask_finished: bool
    stalled: bool


class ProgressMonitor:
    """Follows one goal at a time on an arm's table."""

    def __init__(self, arm: TabletopArm) -> None:
        self._arm = arm
        self._goal = 0
        self._best = -1.0
        self._best_at = 0.0
        self._history: deque[tuple[float, float]] = deque()

    def update(self, goal: int, task: str, subtask: str, now: float) -> Progress:
        """The progress at time ``now`` in seconds; a new goal number starts afresh.

        A text that the table does not know has value -1 and makes no progress.
        """
        if goal != self._goal:
            self._goal, self._best, self._best_at = goal, -1.0, now
            self._history.clear()
        try:
            value = self._arm.progress(task) - 1.0
            finished = self._arm.task_done(task)
            subtask_finished = bool(subtask) and self._arm.subtask_done(subtask)
        except ValueError:
            value, finished, subtask_finished = -1.0, False, False
        if value > self._best + GAIN:
            self._best, self._best_at = value, now
        self._history.append((now, value))
        while self._history[0][0] < now - TREND_WINDOW:
            self._history.popleft()
        then, before = self._history[0]
        return Progress(
            value=value,
            trend=(value - before) / (now - then) if now > then else 0.0,
            finished=finished,
            subtask_finished=subtask_finished,
            stalled=not finished and now - self._best_at > STALL_WINDOW,
        )
