# SPDX-License-Identifier: Apache-2.0
"""What a policy was trained to see and move."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RobotInterface:
    """What a policy was trained to see and move; None is what its checkpoint does not say.

    Attributes:
        cameras: In the order in which the model gets them.
        state_names: Of the elements of the state. LeRobot's checkpoints have none.
        action_names: Of the elements of an action. LeRobot's checkpoints rarely have them.
        fps: Actions per second. LeRobot's checkpoints have none.
        subtasks: That the planner knows; none where it writes freely or was not trained.
        advantage: Whether prompts of training said how good the actions are.
        action_tokens: Whether the planner learnt to go on from a subtask to action tokens: what
            ends a subtask is then the mark of the actions, not the end token.
    """

    cameras: tuple[str, ...]
    state_names: tuple[str, ...] | None
    action_names: tuple[str, ...] | None
    fps: float | None
    subtasks: tuple[str, ...] = ()
    advantage: bool = False
    action_tokens: bool = False
