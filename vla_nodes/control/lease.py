# SPDX-License-Identifier: Apache-2.0
"""The lease under which the robot may move: one goal, for as long as it is repeated."""

GOAL_NONE = 0


class Lease:
    """The goal being served, and the goals that never will be again.

    Goals are numbered upwards. A goal that ended stays ended, and so do all before it:
    nothing but a new goal brings motion back.

    Attributes:
        goal: Being served, or GOAL_NONE.
    """

    def __init__(self, timeout: float) -> None:
        self.goal = GOAL_NONE
        self._ended = GOAL_NONE
        self._timeout_ns = int(timeout * 1e9)
        self._renewed_ns = 0

    def renew(self, goal: int, steady_ns: int) -> None:
        """Take a Task message: repeat the goal, begin a new one, or end it with GOAL_NONE."""
        if goal == GOAL_NONE or self.expired(steady_ns):
            self.end(self.goal)
        if goal > self._ended:
            self.end(goal - 1)
            self.goal = goal
            self._renewed_ns = steady_ns

    def end(self, goal: int) -> None:
        """Serve neither this goal nor any before it, from now on."""
        self._ended = max(self._ended, goal)
        if self.goal <= self._ended:
            self.goal = GOAL_NONE

    def expired(self, steady_ns: int) -> bool:
        """Whether the goal being served was not repeated in time."""
        return self.goal != GOAL_NONE and steady_ns - self._renewed_ns > self._timeout_ns
