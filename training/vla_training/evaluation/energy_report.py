# SPDX-License-Identifier: Apache-2.0
"""The evaluation of energy models as a folder: ``report.json`` and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.evaluation.energy_checkpoints import Judge
from vla_training.evaluation.energy_evaluation import EnergyResults
from vla_training.evaluation.energy_plots import plot_areas, plot_energies, plot_samples
from vla_training.evaluation.energy_separation import LEVEL, Separation

REPORT = "report.json"


def as_json(
    judges: Sequence[Judge], results: EnergyResults, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain values; None stands for a figure that nothing was measured for.

    Args:
        judges: The energy models.
        results: Of the evaluation.
        settings: Of the evaluation; they come first.
    """
    frames = next(iter(results.scored.values()))
    return {
        **settings,
        "frames": len(frames.expert),
        "episodes": len(np.unique(frames.episode)),
        "seconds": results.seconds,
        "level": LEVEL,
        "joints": list(results.joints),
        "models": {
            judge.name: {
                "options": dict(judge.options),
                "kinds": _figures(results.total[judge.name]),
            }
            for judge in judges
        },
        "tasks": {
            task: {
                "frames": results.frames[task],
                "models": {name: _figures(kinds) for name, kinds in models.items()},
            }
            for task, models in results.tasks.items()
        },
        "choices": None if results.samples is None else asdict(results.samples),
    }


def write_report(folder: Path, results: EnergyResults, report: Mapping[str, Any]) -> None:
    """Writes plots and report; a report lies only beside the plots that belong to it.

    Raises:
        DataError: The disk refuses.
    """
    samples = folder / "samples.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for before in (folder / REPORT, samples):
            before.unlink(missing_ok=True)
        plot_areas(folder / "areas.png", results.total)
        plot_energies(folder / "energies.png", results.scored)
        if results.samples is not None:
            plot_samples(samples, results.samples)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    write_whole(folder / REPORT, report)


def _figures(kinds: Mapping[str, Separation]) -> dict[str, Any]:
    return {kind: asdict(one) for kind, one in kinds.items()}
