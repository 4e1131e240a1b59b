# SPDX-License-Identifier: Apache-2.0
"""What the arm can be told to do: texts, the subtasks they stand for, and when one is done."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from vla_nodes.sim.scene import COLOURS, CUBE, TRAY_INNER, TRAY_WALL

CLEAR = "clear the table"


@dataclass(frozen=True)
class Task:
    """A parsed text.

    Attributes:
        text: As it was understood.
        colours: Cubes that belong in the tray, in order.
    """

    text: str
    colours: tuple[str, ...]


def subtask_text(colour: str) -> str:
    """The text of the subtask that brings one cube into the tray."""
    return f"put the {colour} cube in the tray"


SUBTASKS = tuple(subtask_text(colour) for colour in COLOURS)


def parse_task(text: str, present: Collection[str] = tuple(COLOURS)) -> Task:
    """Understand a task.

    Args:
        text: "clear the table" or "put the {colour} cube in the tray"; case and spaces at the
            ends do not matter.
        present: Colours of the cubes in the scene.

    Raises:
        ValueError: The text is not known, or names a cube that is absent.
    """
    text = text.strip().lower()
    if text == CLEAR:
        return Task(text, tuple(colour for colour in COLOURS if colour in present))
    if text not in SUBTASKS:
        known = ", ".join(repr(known) for known in (CLEAR, *SUBTASKS))
        raise ValueError(f"unknown task {text!r}; known are {known}")
    colour = tuple(COLOURS)[SUBTASKS.index(text)]
    if colour not in present:
        raise ValueError(f"{text!r}: there is no {colour} cube; present are {sorted(present)}")
    return Task(text, (colour,))


def next_subtask(task: Task, in_tray: Collection[str]) -> str | None:
    """Text of the first subtask whose cube is not in the tray yet, or None when all are."""
    return next((subtask_text(c) for c in task.colours if c not in in_tray), None)


def inside_tray(cube: np.ndarray, tray: np.ndarray) -> bool:
    """Whether a cube lies between the tray's walls.

    Args:
        cube: Centre (x, y, z, ...).
        tray: Centre (x, y, ...).
    """
    # A centre this near to a wall means that the cube leans on it or sticks through it.
    between_walls = np.abs(cube[:2] - tray[:2]).max() < TRAY_INNER - 0.4 * CUBE
    return bool(between_walls and 0.0 < cube[2] < TRAY_WALL + CUBE / 4)
