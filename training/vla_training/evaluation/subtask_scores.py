# SPDX-License-Identifier: Apache-2.0
"""How often a planner names the subtask that was recorded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Planned:
    """What a planner said of one frame.

    Attributes:
        episode: Of the dataset.
        frame: In its episode.
        task: Of the frame.
        recorded: The frame's subtask.
        written: What the planner wrote by itself.
        chosen: Which of the known subtasks it finds likeliest.
        correct: Tokens of the recorded subtask, end token included, that were the likeliest
            after the ones before them.
        tokens: All of its tokens.
    """

    episode: int
    frame: int
    task: str
    recorded: str
    written: str
    chosen: str
    correct: int
    tokens: int


@dataclass(frozen=True)
class SubtaskScores:
    """Of any number of frames; shares from 0 to 1.

    Attributes:
        frames: That were planned for.
        written: Share whose subtask was written word by word.
        chosen: Share whose subtask was chosen out of the known ones.
        token_accuracy: Share of tokens that were the likeliest, given those before them.
    """

    frames: int
    written: float
    chosen: float
    token_accuracy: float


def score_subtasks(frames: Sequence[Planned]) -> SubtaskScores:
    """Scores one frame or more."""
    return SubtaskScores(
        frames=len(frames),
        written=float(np.mean([frame.written == frame.recorded for frame in frames])),
        chosen=float(np.mean([frame.chosen == frame.recorded for frame in frames])),
        token_accuracy=sum(f.correct for f in frames) / sum(f.tokens for f in frames),
    )


@dataclass(frozen=True, eq=False)
class Confusion:
    """Which subtask was named how often in place of which.

    Attributes:
        labels: L subtasks, the most frequent first.
        counts: (L + 1, L + 1) frames by recorded subtask, then by the planner's. The last row
            and the last column are all other texts.
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]


def confusion(pairs: Sequence[tuple[str, str]], limit: int) -> Confusion:
    """Counts (recorded, named) pairs; of the recorded subtasks the ``limit`` most frequent."""
    labels = tuple(text for text, _ in Counter(text for text, _ in pairs).most_common(limit))
    places = {text: place for place, text in enumerate(labels)}
    counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    for recorded, named in pairs:
        counts[places.get(recorded, -1), places.get(named, -1)] += 1
    return Confusion(labels, counts)
