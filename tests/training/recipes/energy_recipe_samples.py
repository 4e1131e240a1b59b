# SPDX-License-Identifier: Apache-2.0
"""A robot with a tiny policy, and trainings of its energy model."""

from pathlib import Path
from typing import Any

from recipe_samples import CHUNK, cli, make_dataset, make_tokenizers

from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.training_set import TrainingSet
from vla_training.energy.known_episodes import known_episodes
from vla_training.recipes.train import main

EPISODES, LENGTH, FAILED = 6, 20, 2
WHOLE = LENGTH - CHUNK + 1  # frames of an episode with a whole chunk


def make_robot(folder: Path) -> Path:
    """A folder with ``data``, ``tokenizer`` and the training ``policy``; one episode failed."""
    make_dataset(folder / "data", EPISODES, LENGTH, failed={FAILED})
    make_tokenizers(folder / "data", folder, CHUNK)
    assert cli(folder, folder / "policy", "joint", steps=2) == 0
    return folder


def training_episodes(robot: Path) -> tuple[str, ...]:
    """Digests of what the default split of its data trains on."""
    table = TrainingSet(robot / "data", 1).table
    return known_episodes([(table, split_episodes(EPISODES, 0).train)])


def energy_cli(robot: Path, out: Path, *words: str, **options: Any) -> int:
    """Runs the command on a small energy model; returns its exit status."""
    given: dict[str, Any] = {
        "policy": robot / "policy/checkpoint",
        "dataset": robot / "data",
        "contexts": robot / "contexts",
        "hidden": 32,
        "heads": 2,
        "steps": 4,
        "batch-size": 8,
        "workers": 0,
        "log-every": 1,
        "warmup": 1,
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    pairs = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return main(["energy", "--out", str(out), *words, *pairs])
