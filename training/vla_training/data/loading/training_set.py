# SPDX-License-Identifier: Apache-2.0
"""A LeRobot dataset as training wants it: an observation, the actions after it, its labels."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, Dataset

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import ADVANTAGE, POSITIVE, RETURN, WEIGHT
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.dataset_schema import dataset_schema
from vla_training.data.loading.frame_table import FrameTable, read_frame_table
from vla_training.data.loading.video_clips import find_clips
from vla_training.data.loading.video_reader import VideoReader
from vla_training.data.schema import OUTCOME, SUBTASK, image_key

MADE_BY = {
    SUBTASK: "vla-convert",
    RETURN: "vla-label",
    ADVANTAGE: "vla-label --values",
    POSITIVE: "vla-label --values",
}
"""What may be required of every item, and the command that makes it."""


@dataclass(frozen=True, eq=False)
class Item:
    """One frame of one episode, and the T actions from it on.

    Attributes:
        images: By camera, (3, H, W) uint8 RGB.
        state: (S,) float32.
        actions: (T, A) float32; the first is the frame's own. Behind the last one there is
            before a break, that last one is repeated.
        action_is_pad: (T,) bool, True where an action is such a repetition.
        task: In plain words.
        subtask: Likewise; empty where there is none.
        return_to_go: The label ``return``; NaN where there is none.
        advantage: NaN where there is none.
        positive: 1 or 0; ``UNLABELLED`` where that is not known.
        weight: How much it is to count; NaN where there is none.
        outcome: Of the episode, an ``Outcome``.
        episode_index: In its dataset.
        frame_index: In its episode.
    """

    images: Mapping[str, torch.Tensor]
    state: torch.Tensor
    actions: torch.Tensor
    action_is_pad: torch.Tensor
    task: str
    subtask: str
    return_to_go: float
    advantage: float
    positive: int
    weight: float
    outcome: int
    episode_index: int
    frame_index: int

    def augmented(self, augmentation: Augmentation, seed: Sequence[int]) -> "Item":
        """The same item with its pictures changed."""
        return replace(self, images=augmentation(self.images, seed))


class TrainingSet(Dataset[Item]):
    """Frames of a LeRobot v3 dataset.

    It is to be used from one thread; the workers of a ``DataLoader`` are processes, and share
    what it holds when they are forked.

    Attributes:
        root: Of the dataset.
        schema: Robot, frames per second, names, and the cameras that items have.
        chunk: Actions in an item, T.
        table: All frames of the episodes, also those that make no item.
        rows: Rows of the table that make an item, (len,).
        clips: By camera, then by episode, where its video lies.

    Args:
        root: Of the dataset.
        chunk: Actions in an item.
        episodes: Indices; None for all.
        cameras: Names in the order wanted; None for all of the dataset, in its order.
        stride: Take every such frame of an episode only, from its first on.
        require: Columns out of ``MADE_BY``; frames that lack one of them are left out.
        open_videos: Files that each process keeps open.

    Raises:
        DataError: It is no such dataset, lacks something, or no frame is left.
    """

    def __init__(
        self,
        root: Path,
        chunk: int,
        episodes: Sequence[int] | None = None,
        *,
        cameras: Sequence[str] | None = None,
        stride: int = 1,
        require: Collection[str] = (),
        open_videos: int = 64,
    ) -> None:
        if chunk < 1 or stride < 1:
            raise DataError(f"chunk is {chunk} and stride {stride}, expected at least 1 of each")
        self.root = root.resolve()
        self.chunk = chunk
        info = read_info(self.root)
        chosen = _episodes(self.root, info, episodes)
        self.schema = dataset_schema(self.root, info, cameras)
        self.table = read_frame_table(self.root, info["features"], self.schema.fps, chosen)
        self.clips = {
            camera: find_clips(self.root, info, image_key(camera), chosen)
            for camera in self.schema.cameras
        }
        self._videos = VideoReader(0.25 / self.schema.fps, open_videos)
        self.rows = _rows(self.root, self.table, info["features"], stride, require)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        table, row = self.table, int(self.rows[index])
        wanted = np.arange(row, row + self.chunk)
        end = table.end[row]
        return Item(
            images={camera: self.picture(camera, row) for camera in self.schema.cameras},
            state=torch.from_numpy(table.state[row].copy()),
            actions=torch.from_numpy(table.action[np.minimum(wanted, end - 1)]),
            action_is_pad=torch.from_numpy(wanted >= end),
            task=table.task[row],
            subtask=table.subtask[row],
            return_to_go=float(table.labels[RETURN][row]),
            advantage=float(table.labels[ADVANTAGE][row]),
            positive=int(table.labels[POSITIVE][row]),
            weight=float(table.labels[WEIGHT][row]),
            outcome=int(table.labels[OUTCOME][row]),
            episode_index=int(table.episode[row]),
            frame_index=int(table.frame[row]),
        )

    def picture(self, camera: str, row: int) -> torch.Tensor:
        """What a camera saw in a row of the table: (3, H, W) uint8 RGB.

        Raises:
            DataError: It cannot be read, or has another size than the others.
        """
        path, start = self.clips[camera][int(self.table.episode[row])]
        picture = self._videos.read(path, start + float(self.table.timestamp[row]))
        if picture.shape[:2] != self.schema.cameras[camera]:
            height, width = self.schema.cameras[camera]
            raise DataError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} px, "
                f"expected {width} x {height} px"
            )
        return torch.from_numpy(picture).permute(2, 0, 1)


def join(sets: Sequence[TrainingSet]) -> ConcatDataset[Item]:
    """Puts datasets of one robot behind each other; a camera may be missing in some of them.

    Raises:
        DataError: They differ in frames per second, in the names of states or actions, in the
            length of chunks, or in the size of a camera.
    """
    first = sets[0]
    for other in sets[1:]:
        for what, ours, theirs in (
            ("fps", first.schema.fps, other.schema.fps),
            ("states", first.schema.state_names, other.schema.state_names),
            ("actions", first.schema.action_names, other.schema.action_names),
            ("chunk", first.chunk, other.chunk),
        ):
            if ours != theirs:
                raise DataError(
                    f"{what}: {shown(ours)} in {first.root}, {shown(theirs)} in {other.root}"
                )
    sizes: dict[str, tuple[int, int]] = {}
    for one in sets:
        for camera, size in one.schema.cameras.items():
            if sizes.setdefault(camera, size) != size:
                raise DataError(
                    f"camera {camera} has (height, width) {size} in {one.root}, "
                    f"and {sizes[camera]} before it"
                )
    return ConcatDataset(sets)


def _episodes(root: Path, info: Mapping[str, Any], episodes: Sequence[int] | None) -> list[int]:
    count = info["total_episodes"]
    chosen = sorted(set(range(count) if episodes is None else episodes))
    if not chosen:
        raise DataError(f"no episode of {root} is asked for, expected one at least")
    if chosen[0] < 0 or chosen[-1] >= count:
        outside = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise DataError(f"episode {outside} is not in {root}, which has {count}")
    return chosen


def _rows(
    root: Path,
    table: FrameTable,
    features: Collection[str],
    stride: int,
    require: Collection[str],
) -> npt.NDArray[np.int64]:
    """Rows that become items."""
    wanted = table.frame % stride == 0
    for name in require:
        if name not in MADE_BY:
            raise DataError(f"{name!r} cannot be required, only {', '.join(MADE_BY)}")
        if name not in features:
            raise DataError(f"{root} has no column {name}; {MADE_BY[name]} makes it")
        wanted &= table.has(name)
    rows = np.flatnonzero(wanted)
    if not rows.size:
        raise DataError(f"{root} has no frame with {' and '.join(require)} in these episodes")
    return rows
