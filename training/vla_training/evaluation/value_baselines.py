# SPDX-License-Identifier: Apache-2.0
"""What can be said of a frame's return without a look at it: to be beaten by a value function.

Both baselines are fitted to the labels of the training split. They are smoothed as far as gives
the validation split the least cross entropy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter

from vla_nodes.models.c51 import ATOMS, two_hot
from vla_training.evaluation.value_metrics import LabelledFrames

CONSTANT = "constant"
ELAPSED_TIME = "elapsed time"

_TIMES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # frames
_VALUES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # atoms
_UNIFORM = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)
_HAIR = 1e-9  # of a task's mean counts, which decide only where there is nothing else

_Tables = dict[str, npt.NDArray[np.float64]]
_ALL = ""  # in place of a task, which has a text


@dataclass(frozen=True)
class Smoothing:
    """How far counts are smoothed.

    Attributes:
        time: Standard deviation, frames.
        value: Standard deviation, atoms.
        uniform: Share of a uniform distribution, above 0, so that nothing is impossible.
    """

    time: float
    value: float
    uniform: float


@dataclass(frozen=True, eq=False)
class Baseline:
    """Distributions of returns, by task and by frame of the episode.

    Attributes:
        smoothing: That was chosen.
        tables: (T, 201) by task; frames behind the last row have the last row. A task that was
            not trained with has the distributions of all tasks together.
    """

    smoothing: Smoothing
    tables: Mapping[str, npt.NDArray[np.float64]]

    def predict(self, frames: LabelledFrames) -> npt.NDArray[np.float32]:
        """Predicts distributions, (F, 201)."""
        found = np.empty((len(frames), ATOMS), np.float32)
        for task, rows in _by_task(frames):
            found[rows] = _look_up(self.tables, task, frames.frame[rows])
        return found


def fit_baselines(train: LabelledFrames, validation: LabelledFrames) -> dict[str, Baseline]:
    """Fits both, by name.

    Args:
        train: All frames of the training split's labelled episodes, one at least.
        validation: Likewise of the validation split.
    """
    by_time = _count(train)
    by_task = {task: counts.sum(0, keepdims=True) for task, counts in by_time.items()}
    return {
        ELAPSED_TIME: _fit(by_time, _TIMES, validation),
        CONSTANT: _fit(by_task, (0.0,), validation),
    }


def _fit(counts: _Tables, times: Sequence[float], validation: LabelledFrames) -> Baseline:
    """Tries every smoothing."""
    parts = [
        (task, validation.frame[rows, None], *_neighbours(validation.returns[rows]))
        for task, rows in _by_task(validation)
    ]
    losses: dict[Smoothing, float] = {}
    for time, value in product(times, _VALUES):
        tables = _smooth(counts, time, value)
        held = [(_look_up(tables, task, frame, atoms), w) for task, frame, atoms, w in parts]
        for uniform in _UNIFORM:
            losses[Smoothing(time, value, uniform)] = -sum(
                float((weights * np.log(_mix(mass, uniform))).sum()) for mass, weights in held
            )
    best = min(losses, key=lambda smoothing: losses[smoothing])
    tables = _smooth(counts, best.time, best.value)
    return Baseline(best, {task: _mix(table, best.uniform) for task, table in tables.items()})


def _smooth(counts: _Tables, time: float, value: float) -> _Tables:
    """Distributions of counts; mass that would leave the ends of the atoms stays inside.

    A frame without counts, as before a task that begins late, has those of all frames of the task.
    """
    smoothed = {
        task: gaussian_filter(
            table + _HAIR * table.mean(0), (time, value), mode=("constant", "reflect")
        )
        for task, table in counts.items()
    }
    return {task: table / table.sum(-1, keepdims=True) for task, table in smoothed.items()}


def _mix(mass: npt.NDArray[np.float64], uniform: float) -> npt.NDArray[np.float64]:
    return (1.0 - uniform) * mass + uniform / ATOMS


def _look_up(
    tables: Mapping[str, npt.NDArray[np.float64]],
    task: str,
    frame: npt.NDArray[np.int64],
    atoms: npt.NDArray[np.int64] | slice = slice(None),
) -> npt.NDArray[np.float64]:
    table = tables.get(task, tables[_ALL])
    return table[np.minimum(frame, len(table) - 1), atoms]


def _count(frames: LabelledFrames) -> _Tables:
    """Mass of the two-hot returns on each atom at each frame, (T, 201) by task and of all."""
    every = np.zeros((frames.frame.max() + 1, ATOMS))
    found = {_ALL: every}
    for task, rows in _by_task(frames):
        place = frames.frame[rows]
        counts = np.zeros((place.max() + 1, ATOMS))
        atoms, weights = _neighbours(frames.returns[rows])
        np.add.at(counts, (place[:, None], atoms), weights)
        every[: len(counts)] += counts
        found[task] = counts
    return found


def _neighbours(
    returns: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The two atoms beside each return and their weights, (F, 2) both."""
    weights, atoms = two_hot(torch.from_numpy(returns)).topk(2)
    return atoms.numpy(), weights.double().numpy()


def _by_task(frames: LabelledFrames) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Tasks, and the rows of each."""
    tasks, codes = np.unique(frames.task.astype(str), return_inverse=True)
    for code, task in enumerate(tasks.tolist()):
        yield task, np.flatnonzero(codes == code)
