# SPDX-License-Identifier: Apache-2.0
"""What is drawn before an episode begins: table, task, where the arm starts, what goes wrong."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vla_nodes.sim.kinematics import DOWN, inverse
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.scene import COLOURS, UPPER
from vla_nodes.sim.tasks import CLEAR, parse_task, subtask_text
from vla_training.data.errors import DataError

FaultKind = Literal["shaking", "slipping", "knocked", "blocked", "astray", "misplaced"]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)

MOST_CUBES = 3
# Seconds per cube after which the operator gives up, drawn evenly. A success takes about as long,
# so that the time alone does not tell failures.
PATIENCE = (3.5, 6.0)
LIMIT = 15.0  # s per cube for an expert that nothing hinders
ONSET = (0.05, 0.5)  # when a fault begins, as a share of the operator's patience
# Tool poses (x, y, z, pitch, yaw) that arms start from, when not from home.
START_LOW = np.array([0.16, -0.30, 0.10, DOWN - 0.4, -0.8])
START_HIGH = np.array([0.38, 0.25, 0.30, DOWN + 0.4, 0.8])


@dataclass(frozen=True)
class Shares:
    """How often what is drawn.

    Attributes:
        failures: Share of the episodes in which something goes wrong.
        single: Share of the episodes that are about one cube; the others clear the table.
        random_starts: Share of the episodes in which the arm starts anywhere but at home.
    """

    failures: float = 0.4
    single: float = 0.5
    random_starts: float = 0.5

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            DataError: One does not lie in [0, 1].
        """
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                option = name.replace("_", "-")
                raise DataError(f"--{option} is {value}; it must lie between 0 and 1")


@dataclass(frozen=True)
class EpisodePlan:
    """One episode before it happens.

    Attributes:
        task: As ``tasks.parse_task`` understands it.
        layout: Cubes on the table.
        layout_seed: Where they lie.
        start: Joint positions (6,) that the arm starts from; None for home.
        fault: What goes wrong; None for nothing.
        onset: Seconds after which it does.
        limit: Seconds after which the operator gives up.
        seed: Of everything random in the course of the episode.
    """

    task: str
    layout: LayoutOptions
    layout_seed: int
    start: np.ndarray | None
    fault: FaultKind | None
    onset: float
    limit: float
    seed: int


def plan_episode(seed: int, index: int, shares: Shares) -> EpisodePlan:
    """Draw an episode; it depends on nothing but what is given."""
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(1, MOST_CUBES + 1))
    colours = tuple(rng.choice(list(COLOURS), count, replace=False).tolist())
    task = subtask_text(colours[0]) if rng.random() < shares.single else CLEAR
    goals = len(parse_task(task, colours).colours)
    fault = FAULTS[rng.integers(len(FAULTS))] if rng.random() < shares.failures else None
    limit = goals * (rng.uniform(*PATIENCE) if fault else LIMIT)
    layout_seed, later_seed = rng.integers(2**31, size=2).tolist()
    return EpisodePlan(
        task=task,
        layout=LayoutOptions(colours=colours),
        layout_seed=layout_seed,
        start=_anywhere(rng) if rng.random() < shares.random_starts else None,
        fault=fault,
        onset=limit * rng.uniform(*ONSET),
        limit=limit,
        seed=later_seed,
    )


def _anywhere(rng: np.random.Generator) -> np.ndarray:
    """Joint positions (6,) with the tool above the table and the gripper in any state."""
    while True:
        pose = rng.uniform(START_LOW, START_HIGH)
        try:
            return np.append(inverse(pose, _BENT), rng.uniform(0.0, UPPER[5]))
        except ValueError:
            continue  # out of reach


_BENT = np.array([0.0, 1.6, -1.7, -1.5, 0.0])  # where the search for joint positions begins
