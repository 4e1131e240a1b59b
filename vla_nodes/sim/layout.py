# SPDX-License-Identifier: Apache-2.0
"""Random layouts of the table, from a seed and a few options."""

from dataclasses import dataclass, field

import numpy as np

from vla_nodes.sim.scene import COLOURS, DISTRACTORS, TRAY_HOME

AREA = np.array([[0.18, -0.06], [0.37, 0.21]])  # lower and upper corner of cube centres
SPACING = 0.085  # between centres, so that open fingers fit in between
MAX_YAW = 0.6
TRAY_SHIFT = 0.025


@dataclass(frozen=True)
class LayoutOptions:
    """What a reset may vary.

    Attributes:
        cubes: How many cubes, of random colours; ignored where colours are given.
        colours: Exactly these cubes, or None.
        distractors: How many things that no task names.
        light_jitter: Largest relative change of the lights' brightness; their direction
            changes by as many radians.
        camera_jitter: Largest shift of the front camera along each axis, metres.
    """

    cubes: int = 2
    colours: tuple[str, ...] | None = None
    distractors: int = 0
    light_jitter: float = 0.0
    camera_jitter: float = 0.0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: A colour is unknown or a number is out of its range.
        """
        unknown = set(self.colours or ()) - set(COLOURS)
        if unknown:
            raise ValueError(f"unknown cube colours {sorted(unknown)}; known are {list(COLOURS)}")
        if not 0 <= self.cubes <= len(COLOURS):
            raise ValueError(f"cubes is {self.cubes}; it must lie in 0..{len(COLOURS)}")
        if not 0 <= self.distractors <= len(DISTRACTORS):
            raise ValueError(
                f"distractors is {self.distractors}; it must lie in 0..{len(DISTRACTORS)}"
            )


@dataclass(frozen=True)
class Layout:
    """One arrangement of the table.

    Attributes:
        tray: Centre (x, y).
        objects: (x, y, yaw) of what stands on the table, by body name.
    """

    tray: np.ndarray
    objects: dict[str, np.ndarray] = field(default_factory=dict)


def sample_layout(rng: np.random.Generator, options: LayoutOptions) -> Layout:
    """Draw a layout: objects apart from each other, the tray near its usual place."""
    colours = options.colours
    if colours is None:
        colours = tuple(rng.choice(list(COLOURS), options.cubes, replace=False).tolist())
    names = [f"{colour}_cube" for colour in colours]
    names += rng.choice(list(DISTRACTORS), options.distractors, replace=False).tolist()
    points = _apart(rng, len(names))
    yaws = rng.uniform(-MAX_YAW, MAX_YAW, len(names))
    tray = np.array(TRAY_HOME) + rng.uniform(-TRAY_SHIFT, TRAY_SHIFT, 2)
    objects = {n: np.array([*p, yaw]) for n, p, yaw in zip(names, points, yaws, strict=True)}
    return Layout(tray, objects)


def _apart(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points (count, 2) in the area, no two nearer than the spacing."""
    points: list[np.ndarray] = []
    tries = 0
    while len(points) < count:
        tries += 1
        if tries % 200 == 0:
            points.clear()  # The first points may leave no room for the rest.
        point = rng.uniform(*AREA)
        if all(np.linalg.norm(point - other) >= SPACING for other in points):
            points.append(point)
    return np.array(points).reshape(count, 2)
