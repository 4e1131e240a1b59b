# SPDX-License-Identifier: Apache-2.0
"""What pi0.5 is asked, in words and with its state as numbers in the text.

The planner is asked for the next subtask, the actor for actions. Both forms are those of the
published pi0.5 (https://arxiv.org/abs/2504.16054) and of LeRobot, to the character.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

STATE_BINS = 256
"""Into which [-1, 1] is cut."""
SUBTASK_MARK = "\nSubtask: "
"""Ends the planner's prompt."""
ACTION_MARK = "\nAction: "
"""Ends the actor's prompt."""
ADVANTAGE_MARKS = {True: "\nAdvantage: positive", False: "\nAdvantage: negative"}
"""By whether the actions are good ones."""


def state_bins(state: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The numbers that stand for a state in a prompt: floor((x + 1)·128), from 0 to 255.

    Args:
        state: (..., D), normalised; what lies outside [-1, 1] counts as its bound.

    Returns:
        (..., D).

    Raises:
        ValueError: An element is not finite.
    """
    values = np.asarray(state, np.float64)
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"state {list(place)} is {values[place]}, expected a finite number")
    half = STATE_BINS // 2
    # (x + 1)·128 would round what lies just under 0 up to it; a product with 128 is exact.
    bins = np.floor(np.clip(values, -1.0, 1.0) * half) + half
    return np.minimum(bins, STATE_BINS - 1).astype(np.int64)


def planner_prompt(task: str, bins: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Asks for the next subtask.

    Args:
        task: In plain words.
        bins: (D,) of ``state_bins``.
    """
    return _prompt(cleaned(task), bins, SUBTASK_MARK)


def actor_prompt(
    subtask: str, bins: Sequence[int] | npt.NDArray[np.int64], positive: bool | None = None
) -> str:
    """Asks for actions.

    Args:
        subtask: In plain words.
        bins: (D,) of ``state_bins``.
        positive: Whether the actions are good ones, as in RECAP
            (https://arxiv.org/abs/2511.14759); None leaves that open.
    """
    mark = "" if positive is None else ADVANTAGE_MARKS[positive]
    return _prompt(cleaned(subtask) + mark, bins, ACTION_MARK)


def cleaned(text: str) -> str:
    """A text as prompts have it: the same for all that the policy cannot tell apart."""
    return text.strip().replace("_", " ").replace("\n", " ")


def _prompt(text: str, bins: Sequence[int] | npt.NDArray[np.int64], mark: str) -> str:
    return f"Task: {text}, State: {' '.join(str(int(b)) for b in bins)};{mark}"
