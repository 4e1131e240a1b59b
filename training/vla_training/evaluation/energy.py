# SPDX-License-Identifier: Apache-2.0
"""``vla-eval energy``: from arguments to tables, report and plots."""

from collections.abc import Sequence

from vla_training.data.errors import DataError
from vla_training.energy.energy_data import open_as_trained
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.energy_source import EnergySource
from vla_training.energy.split_frames import PARTS, Part
from vla_training.evaluation.energy_arguments import EnergyArguments
from vla_training.evaluation.energy_checkpoints import Judge, open_judges
from vla_training.evaluation.energy_evaluation import evaluate_energy
from vla_training.evaluation.energy_report import as_json, write_report
from vla_training.evaluation.energy_tables import print_report
from vla_training.options import chosen_device


def evaluate(arguments: EnergyArguments) -> None:
    """Evaluates energy models; prints, and writes where that is asked for.

    Raises:
        CheckpointError: A checkpoint cannot be used, or is another policy's.
        DataError: A dataset cannot be used, does not fit, or was trained on, or a file cannot be
            written.
        TrainingError: The settings beside a checkpoint cannot be read.
    """
    device = chosen_device(arguments.device)
    judges = open_judges(arguments.checkpoints, arguments.policy)
    source = arguments.source(judges[0].checkpoint.folder, device)
    frames = _open_frames(judges, source, arguments.part)
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
            **arguments.told(source),
            "checkpoints": {judge.name: str(judge.checkpoint.folder) for judge in judges},
        }
        write_report(arguments.out, results, as_json(judges, results, told))
        print(f"written: {arguments.out}")


def _open_frames(judges: Sequence[Judge], source: EnergySource, part: Part) -> EnergySet:
    """The frames that all energy models are held against."""
    checkpoints = [judge.checkpoint for judge in judges]
    first = checkpoints[0]
    if not first.interface.shares[PARTS.index(part)]:
        raise DataError(f"{first.folder} was trained without a {part} part; name another")
    return open_as_trained(checkpoints, source, [part]).sets(source, [part])[part]
