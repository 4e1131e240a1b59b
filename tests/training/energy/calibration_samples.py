# SPDX-License-Identifier: Apache-2.0
"""An energy model of a small policy, and episodes to calibrate it on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from energy_samples import source
from evaluation_samples import CONFIG, FPS, JOINTS, make_dataset, make_episodes, make_policy
from evaluation_samples import make_model as make_pi05

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    policy_digest,
    write_energy_checkpoint,
)
from vla_nodes.models.energy_config import EnergyConfig
from vla_training.energy.calibrate import main
from vla_training.energy.energy_data import EnergySets, open_energy_sets

LENGTHS = (20, 26, 24, 19, 22, 17, 30, 12, 16, 21)
FAILED = (3, 8)
SHARES = (0.4, 0.3, 0.3)
SEED = 1  # of a split with both tasks and a failed episode in validation and test
SAMPLES = 2
EPSILON = 0.06  # for which one of the two tasks has too few chunks


def make_energy_model() -> EnergyModel:
    """With random weights, whose energies depend on actions and contexts alike."""
    torch.manual_seed(4)
    model = EnergyModel(EnergyConfig(CONFIG.language.width, len(JOINTS), hidden=16, heads=2))
    with torch.no_grad():
        for weight in (model.action_linear.fc2.weight, model.cross.in_proj_weight):
            weight.mul_(8)
    return model.eval()


def make_run(folder: Path) -> Path:
    """A folder with ``policy``, ``data`` and an energy model's ``checkpoint``."""
    make_policy(folder / "policy", make_pi05())
    make_dataset(folder / "data", make_episodes(LENGTHS), failed=FAILED)
    make_checkpoint(folder, folder / "checkpoint")
    return folder


def make_checkpoint(run: Path, folder: Path, **changes: Any) -> Path:
    """Another energy model for a run's policy; changes are of its interface."""
    interface = EnergyInterface(
        policy=policy_digest(run / "policy"),
        action_names=JOINTS,
        fps=float(FPS),
        chunk=CONFIG.chunk,
        split_seed=SEED,
        shares=SHARES,
    )
    model = make_energy_model()
    write_energy_checkpoint(folder, model, model.config, replace(interface, **changes))
    return folder


def calibrate(run: Path, checkpoint: Path, *words: str, epsilon: float = EPSILON) -> int:
    """Runs the command with the contexts of the run; returns its exit status."""
    given = ("--policy", run / "policy", "--dataset", run / "data", "--contexts", run / "contexts")
    told = ("--epsilon", epsilon, "--workers", 0, "--device", "cpu")
    return main(["energy", str(checkpoint), *map(str, (*given, *told)), *words])


def opened(run: Path) -> EnergySets:
    """What the run is calibrated and judged on."""
    wanted = source(run, run / "contexts", samples=SAMPLES, layers=True)
    return open_energy_sets(wanted, SEED, SHARES, ("validation", "test"))
