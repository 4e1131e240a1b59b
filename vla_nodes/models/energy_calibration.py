# SPDX-License-Identifier: Apache-2.0
"""The energies of expert chunks that a model was calibrated on, and what they allow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_nodes.models.energy_config import HIGHEST, LOWEST, EnergyConfig
from vla_nodes.models.entries import LARGEST, Entries
from vla_nodes.models.files import read_object, write_object
from vla_nodes.models.prompts import cleaned
from vla_nodes.models.stored_tensors import few

CALIBRATION = "calibration.json"
"""File in an energy model's checkpoint."""
QUANTILES = 101
"""Of the energies, from 0 to 100 percent."""
_MOST_BYTES = 1 << 24  # some hundred thousand tasks
_EQUAL = 1e-5  # energies that lie no further apart are the same but for rounding


@dataclass(frozen=True)
class Threshold:
    """Above which energy a chunk is rejected.

    Attributes:
        energy: The threshold itself.
        count: Expert chunks that it follows from.
    """

    energy: float
    count: int


@dataclass(frozen=True)
class EnergyCalibration:
    """Of an energy model, on expert chunks that it was not trained on.

    Attributes:
        epsilon: Share of expert chunks that may be rejected.
        pooled: Of all tasks together; for tasks that have no threshold of their own.
        tasks: By task, its text as prompts have it, for those with enough chunks.
        quantiles: Energies at 0, 1, ... 100 percent of all chunks.
    """

    epsilon: float
    pooled: Threshold
    tasks: Mapping[str, Threshold]
    quantiles: tuple[float, ...]

    def threshold(self, task: str) -> float:
        """The energy above which a chunk for a task is rejected."""
        return self.tasks.get(cleaned(task), self.pooled).energy

    def doubts(self, config: EnergyConfig) -> str:
        """What lets chunks of a model pass unjudged, in one line; empty for nothing."""
        idle = [f"'{task}'" for task, own in self.tasks.items() if own.energy >= config.saturated]
        if self.pooled.energy >= config.saturated:
            idle.append("tasks without a threshold of their own")
        if idle:
            return (
                f"no chunk can be rejected for {few(idle)}: the threshold is where energies end, "
                f"{HIGHEST:g}"
            )
        lowest, greatest = self.quantiles[0], self.quantiles[-1]
        # Energies of good chunks may all lie where bounded ones begin.
        lifted = not config.bounded or lowest > LOWEST + _EQUAL
        if lifted and greatest - lowest < _EQUAL:
            return f"no chunk is told from another: all of the calibration have energy {lowest:g}"
        return ""

    def write(self, folder: Path) -> None:
        """Writes ``calibration.json``.

        Raises:
            OSError: The disk refused.
        """
        content = {
            "epsilon": self.epsilon,
            "pooled": vars(self.pooled),
            "tasks": {task: vars(one) for task, one in self.tasks.items()},
            "quantiles": list(self.quantiles),
        }
        write_object(folder / CALIBRATION, content)

    @classmethod
    def read(cls, folder: Path) -> "EnergyCalibration":
        """Reads ``calibration.json``.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        file = folder / CALIBRATION
        entries = Entries(file, read_object(file, _MOST_BYTES))
        epsilon, quantiles = entries.number("epsilon"), entries.raw("quantiles")
        if epsilon >= 1.0:
            entries.refuse("epsilon", "a number between 0 and 1")
        if (
            not isinstance(quantiles, list)
            or len(quantiles) != QUANTILES
            or not all(map(_is_energy, quantiles))
            or sorted(quantiles) != quantiles
        ):
            entries.refuse("quantiles", f"{QUANTILES} finite numbers in ascending order")
        tasks = entries.part("tasks")
        calibration = cls(
            epsilon=epsilon,
            pooled=_threshold(entries.part("pooled")),
            tasks={task: _threshold(one) for task, one in tasks.parts().items()},
            quantiles=tuple(map(float, quantiles)),
        )
        entries.refuse_left()
        return calibration


def _threshold(entries: Entries) -> Threshold:
    energy = entries.raw("energy")
    if not _is_energy(energy):
        entries.refuse("energy", "a finite number")
    threshold = Threshold(float(energy), entries.integer("count", most=1 << 40))
    entries.refuse_left()
    return threshold


def _is_energy(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST
