# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import fields, replace

import pytest
import torch

from vla_training.data.loading.collation import Batch, collate
from vla_training.data.loading.training_set import Item


def item(index: int, cameras: tuple[str, ...] = ("front", "wrist")) -> Item:
    generator = torch.Generator().manual_seed(index)
    picture = {
        camera: torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8, generator=generator)
        for camera in cameras
    }
    return Item(
        images={camera: p.permute(2, 0, 1) for camera, p in picture.items()},
        state=torch.randn(3, generator=generator),
        actions=torch.randn(5, 2, generator=generator),
        action_is_pad=torch.arange(5) > index,
        task=f"task {index}",
        subtask="",
        return_to_go=-0.1 * index,
        advantage=math.nan,
        positive=index % 3 - 1,
        weight=0.5 * index,
        outcome=1,
        episode_index=index,
        frame_index=10 * index,
    )


def test_a_batch_holds_its_items_one_after_another():
    items = [item(k) for k in range(4)]
    batch = collate(items)
    assert len(batch) == 4
    for k, one in enumerate(items):
        for camera in ("front", "wrist"):
            assert torch.equal(batch.images[camera][k], one.images[camera])
            assert batch.image_masks[camera][k]
        for name in ("state", "actions", "action_is_pad"):
            assert torch.equal(getattr(batch, name)[k], getattr(one, name))
        for name in ("positive", "weight", "outcome", "episode_index", "frame_index"):
            assert getattr(batch, name)[k].item() == getattr(one, name)
        assert batch.return_to_go[k].item() == pytest.approx(one.return_to_go)
        assert batch.advantage[k].isnan()
        assert (batch.task[k], batch.subtask[k]) == (one.task, one.subtask)


def test_shapes_and_types_are_as_documented():
    batch = collate([item(k) for k in range(4)])
    assert {n: tuple(t.shape) for n, t in batch.images.items()} == {
        "front": (4, 3, 6, 8),
        "wrist": (4, 3, 6, 8),
    }
    assert batch.images["front"].is_contiguous(memory_format=torch.channels_last)
    assert batch.actions.shape == (4, 5, 2)
    types = {name: getattr(batch, name).dtype for name in ("state", "actions", "return_to_go")}
    assert set(types.values()) == {torch.float32}
    assert batch.action_is_pad.dtype == torch.bool
    assert batch.positive.dtype == batch.frame_index.dtype == torch.int64


def test_a_camera_that_an_item_lacks_is_black_and_masked():
    batch = collate([item(0), item(1, ("front",)), item(2, ("side", "front"))])
    assert list(batch.images) == ["front", "wrist", "side"]
    assert batch.image_masks["wrist"].tolist() == [True, False, False]
    assert batch.image_masks["side"].tolist() == [False, False, True]
    assert batch.image_masks["front"].all()
    assert (batch.images["wrist"][1:] == 0).all()


def test_items_without_cameras_make_a_batch_without_pictures():
    assert collate([item(0, ()), item(1, ())]).images == {}


def test_a_batch_moves_as_a_whole():
    batch = collate([item(0), item(1)])
    moved = batch.to("meta")
    for field in fields(Batch):
        value = getattr(moved, field.name)
        for tensor in value.values() if isinstance(value, dict) else [value]:
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta"
    assert moved.task == batch.task
    assert batch.state.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_is_pinned_and_sent_to_a_gpu_unchanged():
    batch = collate([item(0), item(1)])
    pinned = batch.pin_memory()
    assert pinned.images["front"].is_pinned()
    back = pinned.to("cuda").to("cpu")
    assert torch.equal(back.images["front"], batch.images["front"])
    assert torch.equal(back.actions, batch.actions)


def test_chunks_of_other_lengths_do_not_make_a_batch():
    short = replace(item(1), actions=torch.zeros(4, 2))
    with pytest.raises(RuntimeError):
        collate([item(0), short])
