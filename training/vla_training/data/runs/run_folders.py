# SPDX-License-Identifier: Apache-2.0
"""Runs kept as folders of JPEGs beside arrays of actions and positions.

Two layouts are known, ``TASK/SUBTASK/run_NNN`` and ``stageN/run_NNN``. A run holds
``actions.npy`` (T, A), ``qpos.npy`` (T, S), and for each camera a folder of T JPEGs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vla_nodes.observation.codecs import Picture
from vla_training.data.errors import DataError
from vla_training.data.runs.instructions import Instructions
from vla_training.data.runs.run_files import (
    inside,
    list_folders,
    list_jpegs,
    open_array,
    picture_size,
    read_picture,
)

ACTIONS = "actions.npy"
POSITIONS = "qpos.npy"
_RUN = re.compile(r"run_?[0-9]+")
_STAGE = re.compile(r"stage_?([0-9]{1,9})")
_CAMERA = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Run:
    """One run, of T frames, and what was found out about it without reading all of it.

    Attributes:
        root: Of all runs; no link leads out of it.
        name: Path from the root.
        task: High-level, in words.
        subtask: In words.
        length: T.
        state_size: S.
        action_size: A.
        sizes: (height, width) of the first picture, by camera.
    """

    root: Path
    name: str
    task: str
    subtask: str
    length: int
    state_size: int
    action_size: int
    sizes: Mapping[str, tuple[int, int]]

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Its arrays, by their names, and the JPEGs of each camera in order, by its name."""
        folder = self.root / self.name
        return {
            **{name: (inside(folder / name, self.root),) for name in (POSITIONS, ACTIONS)},
            **{camera: list_jpegs(folder / camera, self.root) for camera in self.sizes},
        }

    def frames(self) -> Iterator["RunFrame"]:
        """Reads it from the first frame to the last.

        Raises:
            DataError: A picture cannot be decoded or has another size than the first, or the
                run has changed since it was found.
        """
        files = self.files()
        states, actions = (open_array(files[name][0]) for name in (POSITIONS, ACTIONS))
        counts = {len(states), len(actions), *(len(files[camera]) for camera in self.sizes)}
        if counts != {self.length}:
            raise DataError(f"run {self.name} changed while it was imported")
        for frame in range(self.length):
            pictures = {
                camera: read_picture(files[camera][frame], size)
                for camera, size in self.sizes.items()
            }
            yield RunFrame(pictures, states[frame], actions[frame])


class RunFrame(NamedTuple):
    """Pictures (H, W, 3) uint8 RGB by camera, positions (S,) and actions (A,)."""

    pictures: dict[str, Picture]
    state: npt.NDArray[np.floating]
    action: npt.NDArray[np.floating]


def find_runs(root: Path, instructions: Instructions) -> tuple[list[Run], list[str]]:
    """Finds every run below a folder and looks into it, without reading pictures.

    Args:
        root: Holds folders of tasks or of stages.
        instructions: What they are about.

    Returns:
        Runs in natural order (``run_2`` before ``run_10``), which agree in cameras, sizes of
        pictures and lengths of vectors; and the names of folders that hold no run.

    Raises:
        DataError: There is no run, one is not whole, or two differ.
    """
    root = root.resolve()
    runs: list[Run] = []
    others: list[str] = []
    for holder in _holders(root):
        found = [folder for folder in list_folders(holder, root) if _RUN.fullmatch(folder.name)]
        if not found:
            others.append(_name(holder, root))
            continue
        task, subtask = _texts(holder, root, instructions)
        runs += [_look(folder, root, task, subtask) for folder in found]
        others += [_name(f, root) for f in list_folders(holder, root) if f not in found]
    if not runs:
        raise DataError(
            f"{root} holds no run; expected TASK/SUBTASK/run_NNN or stageN/run_NNN below it"
        )
    for run in runs[1:]:
        _compare(runs[0], run)
    return runs, others


def _holders(root: Path) -> Iterator[Path]:
    """The folders that should hold runs."""
    for top in list_folders(root, root):
        inner = list_folders(top, root)
        if any(_RUN.fullmatch(folder.name) for folder in inner) or not inner:
            yield top
        else:
            yield from inner


def _texts(holder: Path, root: Path, instructions: Instructions) -> tuple[str, str]:
    """Task and subtask of the runs in a folder."""
    if holder.parent != root:
        return instructions.of_folders(holder.parent.name, holder.name)
    stage = _STAGE.fullmatch(holder.name)
    if not stage:
        raise DataError(
            f"{_name(holder, root)} holds runs; expected them in TASK/SUBTASK or in stageN"
        )
    return instructions.of_stage(int(stage[1]))


def _look(folder: Path, root: Path, task: str, subtask: str) -> Run:
    """Makes out what a run holds."""
    name = _name(folder, root)
    cameras = {place.name: list_jpegs(place, root) for place in list_folders(folder, root)}
    cameras = {camera: files for camera, files in cameras.items() if files}
    if not cameras:
        raise DataError(f"run {name} holds no folder of JPEGs; expected one for each camera")
    for camera in cameras:
        if not _CAMERA.fullmatch(camera):
            raise DataError(
                f"run {name} has a camera {camera!r}; expected a name of letters, digits, _ and -"
            )
    shapes = {file: open_array(inside(folder / file, root)).shape for file in (ACTIONS, POSITIONS)}
    counts = {file: shape[0] for file, shape in shapes.items()}
    counts |= {f"{camera}/": len(files) for camera, files in cameras.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} in {part}" for part, count in counts.items())
        raise DataError(f"run {name} has {found}; expected one of each for every frame")
    return Run(
        root=root,
        name=name,
        task=task,
        subtask=subtask,
        length=counts[ACTIONS],
        state_size=shapes[POSITIONS][1],
        action_size=shapes[ACTIONS][1],
        sizes={camera: picture_size(files[0]) for camera, files in cameras.items()},
    )


def _compare(first: Run, run: Run) -> None:
    """Refuses a run that does not fit into a dataset with the first one."""
    for what, expected, found in (
        ("cameras", sorted(first.sizes), sorted(run.sizes)),
        ("pictures of (height, width)", dict(first.sizes), dict(run.sizes)),
        (f"a width of {POSITIONS} of", first.state_size, run.state_size),
        (f"a width of {ACTIONS} of", first.action_size, run.action_size),
    ):
        if found != expected:
            raise DataError(
                f"run {run.name} has {what} {found}, expected {expected} as run {first.name} has"
            )


def _name(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()
