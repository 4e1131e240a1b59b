# SPDX-License-Identifier: Apache-2.0
"""A small dataset with its tokenisers, and trainings on it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shard_samples import H264, picture
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.collation import Batch
from vla_training.data.loading.dataset_schema import dataset_schema
from vla_training.data.loading.frame_scaling import frame_scaling
from vla_training.data.loading.frame_table import read_frame_table
from vla_training.data.loading.training_set import Item
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.shards import ShardWriter
from vla_training.recipes.job import Prepared
from vla_training.recipes.train import main
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.fit_fast import read_chunks
from vla_training.tokens.fit_tokenizer import fit_tokenizer

CHUNK = 8  # of a tiny model
TASKS = ("stack the cups", "wipe the table")
SUBTASKS = ("reach", "put it_down")
SCHEMA = DatasetSchema(
    robot="sample_arm",
    fps=10,
    state_names=("pan.position", "lift.position"),
    action_names=("pan", "lift", "grip"),
    cameras={"front": (24, 48), "wrist": (32, 32)},
)


def make_dataset(
    root: Path, episodes: int = 6, length: int = 10, seed: int = 0, failed: Collection[int] = ()
) -> Path:
    """Joints that wander, and pictures that change with every frame."""
    rng = np.random.default_rng(seed)
    shards = []
    for episode in range(episodes):
        folder = root.with_name(f"{root.name}-shard-{episode}")
        path = rng.normal(size=(length + 1, 3)).cumsum(axis=0)
        with ShardWriter(folder, SCHEMA, H264, length) as shard:
            for k in range(length):
                number = length * episode + k
                pictures = {c: picture(number, size) for c, size in SCHEMA.cameras.items()}
                subtask = SUBTASKS[2 * k // length]
                shard.add(pictures, path[k, :2], path[k + 1], 10**8 * (k + 1), subtask)
            outcome = Outcome.FAILURE if episode in failed else Outcome.SUCCESS
            shard.finish(TASKS[episode % 2], outcome, {})
        shards.append(folder)
    write_dataset(root, shards, SCHEMA, H264, {})
    return root


def make_tokenizers(dataset: Path, folder: Path, chunk: int) -> None:
    """Writes ``tokenizer`` and ``fast``, fitted to all of a dataset."""
    info = read_info(dataset)
    table = read_frame_table(dataset, info["features"], info["fps"], range(info["total_episodes"]))
    texts = set(table.task.texts), set(table.subtask.texts)
    fit_tokenizer(*texts, vocabulary=560).write(folder / "tokenizer")
    schema = dataset_schema(dataset, info, None)
    scaling = frame_scaling([table], schema, "quantile").action
    chunks = scaling.normalise(read_chunks(table, chunk, 10_000))
    FastTokenizer.fit(chunks, 512).write(folder / "fast")


def make_sample(folder: Path) -> Path:
    make_dataset(folder / "data")
    make_tokenizers(folder / "data", folder, CHUNK)
    return folder


def cli(sample: Path, out: Path, mode: str, *words: str, **options: Any) -> int:
    """Runs the command on a tiny model; returns its exit status."""
    given: dict[str, Any] = {
        "size": "tiny",
        "tokenizer": sample / "tokenizer",
        "steps": 4,
        "batch-size": 4,
        "workers": 0,
        "log-every": 1,
        "learning-rate": 1e-3,
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    if "init" in given:
        del given["size"], given["tokenizer"]
    argv = ["policy", "--mode", mode, "--out", str(out), "--dataset", str(sample / "data"), *words]
    return main([*argv, *(w for n, v in given.items() for w in (f"--{n}", str(v)))])


def logged(out: Path, name: str) -> dict[int, float]:
    """A logged figure by step."""
    events = EventAccumulator(str(out / "logs" / "training"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def toy_items(count: int, seed: int = 0) -> list[Item]:
    """Items of which only state and actions matter; actions follow from the state."""
    rng = np.random.default_rng(seed)
    rule = np.random.default_rng(99).normal(size=(2, 3))
    items = []
    for k in range(count):
        state = rng.normal(size=2)
        actions = np.stack([state @ rule] * 4)
        items.append(
            Item(
                images={"front": torch.zeros(3, 4, 4, dtype=torch.uint8)},
                state=torch.from_numpy(state).float(),
                actions=torch.from_numpy(actions).float(),
                action_is_pad=torch.arange(4) > k % 4,
                task="",
                subtask="",
                return_to_go=0.0,
                advantage=0.0,
                positive=-1,
                weight=1.0,
                outcome=1,
                episode_index=0,
                frame_index=k,
            )
        )
    return items


@dataclass
class ToyObjective:
    """Regression of actions on the state, with noise on the state and dropout in the model."""

    noise: float = 0.1

    def __post_init__(self) -> None:
        self.weights = {"action": 2.0, "size": 0.1}

    def prepare(
        self, batch: Batch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        noise = np.stack([rng.normal(size=2) for rng in rngs]).astype(np.float32)
        state = batch.state + self.noise * torch.from_numpy(noise)
        learnt = ~batch.action_is_pad
        counts = {"action": learnt.sum() * 3, "size": float(len(batch)), "seen": len(batch)}
        return Prepared((state.to(device), batch.actions, learnt), counts)

    def losses(self, model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
        state, actions, learnt = inputs
        predicted = model(state)
        error = (predicted[:, None] - actions).square() * learnt[..., None]
        return {
            "action": error.sum(),
            "size": predicted.square().mean(1).sum(),
            "seen": torch.tensor(float(len(state))),
        }


def toy_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))
