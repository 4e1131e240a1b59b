# SPDX-License-Identifier: Apache-2.0
"""Batches of items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from vla_training.data.loading.training_set import Item


@dataclass(frozen=True, eq=False)
class Batch:
    """B items. Shapes and meanings are those of ``Item`` with a dimension in front.

    Attributes:
        images: By camera, (B, 3, H, W) uint8, channels last in memory. Models want what
            ``vla_nodes.models.pictures`` makes of them.
        image_masks: By camera, (B,) bool; False where the item's dataset lacks the camera and
            its picture is black.
        state: (B, S) float32.
        actions: (B, T, A) float32.
        action_is_pad: (B, T) bool.
        task: B texts.
        subtask: B texts.
        return_to_go: (B,) float32.
        advantage: (B,) float32.
        positive: (B,) int64.
        weight: (B,) float32.
        outcome: (B,) int64.
        episode_index: (B,) int64.
        frame_index: (B,) int64.
    """

    images: Mapping[str, torch.Tensor]
    image_masks: Mapping[str, torch.Tensor]
    state: torch.Tensor
    actions: torch.Tensor
    action_is_pad: torch.Tensor
    task: tuple[str, ...]
    subtask: tuple[str, ...]
    return_to_go: torch.Tensor
    advantage: torch.Tensor
    positive: torch.Tensor
    weight: torch.Tensor
    outcome: torch.Tensor
    episode_index: torch.Tensor
    frame_index: torch.Tensor

    def __len__(self) -> int:
        return len(self.task)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; what lies in pinned memory is sent without waiting."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> "Batch":
        """The same batch in pinned memory, as a ``DataLoader`` asks for it."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Any) -> "Batch":
        def changed(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: change(tensor) for name, tensor in value.items()}
            return change(value) if isinstance(value, torch.Tensor) else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})


def collate(items: Sequence[Item]) -> Batch:
    """Makes a batch of items. Cameras that some items lack are masked there."""
    cameras = dict.fromkeys(camera for item in items for camera in item.images)

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([getattr(item, name) for item in items], dtype=dtype)

    return Batch(
        images={
            camera: _stack_pictures([i.images.get(camera) for i in items]) for camera in cameras
        },
        image_masks={
            camera: torch.tensor([camera in i.images for i in items]) for camera in cameras
        },
        state=torch.stack([item.state for item in items]),
        actions=torch.stack([item.actions for item in items]),
        action_is_pad=torch.stack([item.action_is_pad for item in items]),
        task=tuple(item.task for item in items),
        subtask=tuple(item.subtask for item in items),
        return_to_go=column("return_to_go", torch.float32),
        advantage=column("advantage", torch.float32),
        positive=column("positive", torch.int64),
        weight=column("weight", torch.float32),
        outcome=column("outcome", torch.int64),
        episode_index=column("episode_index", torch.int64),
        frame_index=column("frame_index", torch.int64),
    )


def _stack_pictures(pictures: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """(B, 3, H, W) of (3, H, W) that lie as (H, W, 3) in memory, which saves turning them."""
    some = next(picture for picture in pictures if picture is not None)
    rows = [torch.zeros_like(some) if picture is None else picture for picture in pictures]
    # torch.stack would wake a thread per core, which on a busy machine takes longer than the copy.
    stacked = np.stack([picture.permute(1, 2, 0).numpy() for picture in rows])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)
