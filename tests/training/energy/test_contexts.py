# SPDX-License-Identifier: Apache-2.0
"""Contexts on disk: those of the robot's engine, seen once, and never another policy's."""

import errno
import os
import shutil
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from energy_samples import LENGTHS, opened
from evaluation_samples import (
    CONFIG,
    HIGH,
    JOINTS,
    LOW,
    make_dataset,
    make_episodes,
    make_model,
    make_policy,
)
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.inference.engine import Pi05Engine
from vla_nodes.inference.engine_options import EngineOptions
from vla_nodes.models.checkpoint import load_model, read_checkpoint
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Views
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.prompts import actor_prompt, state_bins
from vla_training.data.array_store import ArrayStore
from vla_training.data.errors import DataError
from vla_training.energy.energy_set import EnergySet
from vla_training.policy_inputs.policy_frames import frame_noise

SEED = 3  # trains on episodes 0, 2 and 4
FRAMES = 13 + 2 + 5  # of all parts


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames the policy was shown at each time."""
    counts, embed = [], Pi05.embed_pictures

    def counting(model: Pi05, views: Views) -> torch.Tensor:
        counts.append(len(views.pixels))
        return embed(model, views)

    monkeypatch.setattr(Pi05, "embed_pictures", counting)
    return counts


def stored(sample: Path, folder: Path, **changes: Any) -> list[Path]:
    """The files of contexts, which are made first."""
    opened(sample, folder, SEED, **changes)
    return sorted(folder.rglob("values"))


def contents(items: EnergySet) -> list[list[torch.Tensor]]:
    return [[item.hidden, item.samples, item.layers] for item in items]


@pytest.mark.parametrize("advantage", [False, True])
def test_contexts_and_samples_are_those_of_the_robots_engine(
    sample: Path, tmp_path: Path, advantage: bool
) -> None:
    folder = make_policy(tmp_path / "policy", make_model(), advantage)
    items = opened(sample, tmp_path / "cache", SEED, policy=folder, samples=2, layers=True).training
    checkpoint = read_checkpoint(folder)
    engine = Pi05Engine(load_model(checkpoint), EngineOptions(hidden=True, candidates=2))
    recorded = LeRobotDataset("a/b", root=sample / "data", video_backend="pyav", return_uint8=True)
    for item in list(items)[::5]:  # the first frame has no subtask
        frame = recorded[item.row]
        pictures = [
            fit_pictures(frame[f"observation.images.{camera}"][None], CONFIG.image_size)
            for camera in ("wrist", "front")
        ]
        state = frame["observation.state"].double().numpy()
        bins = state_bins(2 * (state - LOW) / (np.array(HIGH) - LOW) - 1)
        bins = [*bins, *[128] * (CONFIG.max_state_dim - len(bins))]
        prompt = actor_prompt(item.subtask or item.task, bins, True if advantage else None)
        tokens = [checkpoint.tokenizer.bos_id, *checkpoint.tokenizer.encode(prompt)]
        noise = frame_noise([(0, item.row)], 2, CONFIG, 0)[:, 0]
        drawn = engine.act(engine.encode(torch.cat(pictures)), tokens, noise=noise)
        assert item.hidden.shape == drawn.hidden.shape
        torch.testing.assert_close(item.hidden.float(), drawn.hidden, rtol=8e-3, atol=1e-3)
        expected = drawn.actions[..., : len(JOINTS)]
        torch.testing.assert_close(item.samples, expected, rtol=1e-3, atol=2e-3)
        assert item.layers.shape == (1, CONFIG.chunk, len(JOINTS))
        assert (item.layers[0] - item.samples[0]).abs().max() > 0.1


def test_the_policy_sees_every_frame_once(sample: Path, tmp_path: Path, seen: list[int]) -> None:
    first = opened(sample, tmp_path, SEED, stride=2)
    shown = sum(seen)
    assert shown == len(first.training) + len(first.validation) + len(first.test)
    opened(sample, tmp_path, SEED)
    assert sum(seen) == FRAMES
    again = opened(sample, tmp_path, SEED)
    assert [len(item.hidden) > 0 for item in again.training] == [True] * len(again.training)
    assert sum(seen) == FRAMES


def test_batches_and_workers_change_nothing_but_rounding(sample: Path, tmp_path: Path) -> None:
    kinds = {"samples": 2, "layers": True}
    one = opened(sample, tmp_path / "one", SEED, batch_size=7, **kinds).training
    two = opened(sample, tmp_path / "two", SEED, batch_size=1, workers=2, **kinds).training
    for ours, theirs in zip(contents(one), contents(two), strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=8e-3, atol=2e-3)


def test_chunks_that_are_wanted_later_leave_contexts_alone(sample: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in stored(sample, tmp_path)}
    few = opened(sample, tmp_path, SEED, samples=2).training
    many = opened(sample, tmp_path, SEED, samples=4, layers=True).training
    assert {file: file.stat().st_mtime_ns for file in before} == before
    for item, other in zip(few, many, strict=True):
        torch.testing.assert_close(item.samples, other.samples[:2], rtol=0, atol=2e-3)
    another = opened(sample, tmp_path, SEED, samples=2, seed=1).training
    assert (another[0].samples - few[0].samples).abs().max() > 0.01


def test_contexts_of_another_policy_are_not_taken(
    sample: Path, tmp_path: Path, seen: list[int]
) -> None:
    policy = Path(shutil.copytree(sample / "policy", tmp_path / "policy"))
    opened(sample, tmp_path / "cache", SEED, policy=policy)
    opened(sample, tmp_path / "cache", SEED, policy=policy.rename(tmp_path / "moved"))
    assert sum(seen) == FRAMES
    make_policy(policy, make_model(seed=1))
    opened(sample, tmp_path / "cache", SEED, policy=policy)
    assert sum(seen) == 2 * FRAMES
    opened(sample, tmp_path / "cache", SEED, policy=policy, bf16=True)
    assert sum(seen) == 3 * FRAMES


def test_contexts_of_another_dataset_are_not_taken_wherever_it_lies(
    sample: Path, tmp_path: Path, seen: list[int]
) -> None:
    root = Path(shutil.copytree(sample / "data", tmp_path / "data"))
    opened(sample, tmp_path / "cache", SEED, dataset=(root,))
    opened(sample, tmp_path / "cache", SEED, dataset=(root.rename(tmp_path / "moved"),))
    assert sum(seen) == FRAMES
    # The same pictures and actions with other words: one part of the prompts has changed.
    episodes = make_episodes(LENGTHS, subtasks=False)
    other = make_dataset(tmp_path / "other", episodes, failed=(2,))
    opened(sample, tmp_path / "cache", SEED, dataset=(other,))
    assert sum(seen) == 2 * FRAMES


@pytest.mark.parametrize("calls", [1, 3])
def test_an_interrupted_opening_goes_on_and_gives_the_same_bytes(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int], calls: int
) -> None:
    kinds = {"samples": 2, "layers": True}
    whole = stored(sample, tmp_path / "whole", **kinds)
    seen.clear()
    with monkeypatch.context() as patch:
        prefix = Pi05.prefix

        def interrupted(*args: object) -> object:
            if len(seen) > calls:
                raise KeyboardInterrupt
            return prefix(*args)

        patch.setattr(Pi05, "prefix", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(sample, tmp_path / "parts", SEED, **kinds)
    assert seen == [4] * (calls + 1)
    parts = stored(sample, tmp_path / "parts", **kinds)
    assert sum(seen) == FRAMES + 4  # those of the interruption are shown twice
    assert len(whole) == len(parts) == 3
    for ours, theirs in zip(whole, parts, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
        lengths = (ours.with_name("lengths"), theirs.with_name("lengths"))
        assert lengths[0].read_bytes() == lengths[1].read_bytes()


def test_what_a_killed_process_had_not_put_on_the_disk_is_not_there(tmp_path: Path) -> None:
    def store() -> ArrayStore:
        return ArrayStore(tmp_path, {"of": "a test"}, "<f2", 3, (4, 2))

    def killed() -> None:
        with store().writing() as write:
            write(np.array([2]), [np.ones((4, 2))])
            os._exit(9)

    with store().writing() as write:
        write(np.array([0]), [np.ones((2, 2))])
    child = get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == 9
    left = store()
    assert left.done(np.arange(3)).tolist() == [True, False, False]
    np.testing.assert_array_equal(left.read_one(0), np.ones((2, 2), np.float16))
    with pytest.raises(DataError, match="nothing of frame 2 "):
        left.read_one(2)


def test_a_disk_that_is_full_is_named_and_what_it_took_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArrayStore(tmp_path, {"of": "a test"}, "<f2", 3, (4, 2))
    pwrite, room = os.pwrite, 16 + 5  # one array and a part of another

    def full(descriptor: int, content: bytes, offset: int) -> int:
        nonlocal room
        if len(content) > 4:  # not a length
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            content = content[:room]
            room -= len(content)
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(DataError, match=f"{store.folder}: cannot be written: No space left"),
        store.writing() as write,
    ):
        write(np.arange(2), [np.ones((4, 2)), np.ones((4, 2))])
    assert store.done(np.arange(3)).tolist() == [True, False, False]
    np.testing.assert_array_equal(store.read_one(0), np.ones((4, 2), np.float16))


def test_contexts_for_which_there_is_no_room_are_refused(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    # A frame of 32 numbers for up to 64 tokens takes one block; its two chunks another.
    needed = FRAMES * 2 * 4096
    usage = shutil.disk_usage(tmp_path)
    short = usage._replace(free=needed + (64 << 20) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: short)
    with pytest.raises(DataError, match=r"contexts of 20 frames take 0\.00 GB .* are free"):
        opened(sample, tmp_path, SEED, samples=2)
    assert not seen
    monkeypatch.setattr(shutil, "disk_usage", lambda _: short._replace(free=short.free + 1))
    opened(sample, tmp_path, SEED, samples=2)


def test_the_size_is_said_before_and_the_rate_after(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(sample, tmp_path, SEED)
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"contexts of {FRAMES} frames take 0.00 GB in {tmp_path}"
    assert last.startswith(f"the policy saw {FRAMES} frames in ")
    opened(sample, tmp_path, SEED)
    assert not capsys.readouterr().err


def test_chunks_that_are_too_large_for_the_disk_are_refused(sample: Path, tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.action_out_proj.weight.mul_(1e6)
    policy = make_policy(tmp_path / "policy", model)
    with pytest.raises(CheckpointError, match=r"gives chunks that are not finite in torch.float16"):
        opened(sample, tmp_path / "cache", SEED, policy=policy, samples=1)


def test_an_expert_of_one_layer_has_no_chunks_of_fewer(sample: Path, tmp_path: Path) -> None:
    shallow = replace(
        CONFIG,
        language=replace(CONFIG.language, depth=1),
        expert=replace(CONFIG.expert, depth=1),
    )
    policy = make_policy(tmp_path / "policy", make_model(shallow))
    with pytest.raises(DataError, match="has one layer: expected two at least"):
        opened(sample, tmp_path / "cache", SEED, policy=policy, layers=True)


def test_a_dataset_of_another_rate_is_refused(sample: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "data", make_episodes((9, 9, 9)), fps=20)
    with pytest.raises(DataError, match="has 20 frames per second; expected 10"):
        opened(sample, tmp_path, dataset=(other,))


def test_a_gpu_that_is_not_there_is_refused(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="device is cuda:7, but PyTorch finds no such device"):
        opened(sample, tmp_path, device="cuda:7")
