# SPDX-License-Identifier: Apache-2.0
"""``vla-eval energy``: from arguments to tables, report and plots."""

from dataclasses import asdict
from pathlib import Path

import torch

from vla_nodes.models.energy_checkpoint import EnergyCheckpoint
from vla_training.data.errors import DataError
from vla_training.energy.energy_data import PARTS, open_part
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.energy_source import EnergySource
from vla_training.evaluation.energy_arguments import EnergyArguments
from vla_training.evaluation.energy_checkpoints import open_judges
from vla_training.evaluation.energy_evaluation import evaluate_energy
from vla_training.evaluation.energy_report import as_json, write_report
from vla_training.evaluation.energy_tables import print_report


def evaluate(arguments: EnergyArguments) -> None:
    """Evaluates energy models; prints, and writes where that is asked for.

    Raises:
        CheckpointError: A checkpoint cannot be used, or is another policy's.
        DataError: A dataset cannot be used, or does not fit, or a file cannot be written.
        TrainingError: A text has more tokens than the policy takes.
    """
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device is cuda, but PyTorch finds no such device here")
    judges = open_judges(arguments.checkpoints, arguments.policy)
    first = judges[0].checkpoint
    contexts = arguments.contexts or first.folder.resolve().parent / "contexts"
    frames = _open_frames(arguments, first, contexts, device)
    results = evaluate_energy(
        judges,
        frames,
        samples=arguments.samples > 0,
        layers=arguments.layers,
        far=arguments.far,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=device,
    )
    print_report(judges, results)
    if arguments.out is not None:
        told = {
            **{name: value for name, value in asdict(arguments).items() if name != "out"},
            "checkpoints": {judge.name: str(judge.checkpoint.folder) for judge in judges},
            "policy": str(arguments.policy),
            "dataset": list(map(str, arguments.dataset)),
            "contexts": str(contexts),
            "device": device,
        }
        write_report(arguments.out, results, as_json(judges, results, told))
        print(f"written: {arguments.out}")


def _open_frames(
    arguments: EnergyArguments, first: EnergyCheckpoint, contexts: Path, device: str
) -> EnergySet:
    """The frames that all energy models are held against."""
    if not first.interface.shares[PARTS.index(arguments.part)]:
        raise DataError(f"{first.folder} was trained without a {arguments.part} part; name another")
    source = EnergySource(
        policy=arguments.policy,
        dataset=arguments.dataset,
        folder=contexts,
        stride=arguments.stride,
        samples=arguments.samples,
        layers=arguments.layers,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=device,
        bf16=arguments.bf16,
        seed=arguments.seed,
    )
    return open_part(first, source, arguments.part)
