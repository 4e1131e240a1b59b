# SPDX-License-Identifier: Apache-2.0
"""Contexts of a small policy for a few recorded episodes."""

from pathlib import Path
from typing import Any

from evaluation_samples import make_dataset, make_episodes, make_model, make_policy

from vla_training.energy.energy_data import EnergySets, open_energy_sets
from vla_training.energy.energy_source import EnergySource

LENGTHS = (20, 12, 15, 9, 5)  # the last one is shorter than a chunk
FAILED = 2
SHARES = (0.6, 0.2, 0.2)


def make_sample(folder: Path) -> Path:
    """A folder with ``policy`` and ``data``; one of its five episodes failed."""
    make_policy(folder / "policy", make_model())
    make_dataset(folder / "data", make_episodes(LENGTHS), failed=(FAILED,))
    return folder


def source(sample: Path, folder: Path, **changes: Any) -> EnergySource:
    """Contexts of a sample that are kept in a folder."""
    given = {"policy": sample / "policy", "dataset": (sample / "data",), "batch_size": 4}
    return EnergySource(folder=folder, **{**given, **changes})


def opened(sample: Path, folder: Path, split_seed: int = 0, **changes: Any) -> EnergySets:
    """All parts of a sample."""
    return open_energy_sets(source(sample, folder, **changes), split_seed, SHARES)
