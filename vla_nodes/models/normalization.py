# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint scales states and actions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vla_nodes.models.errors import CheckpointError, faults_of
from vla_nodes.models.files import read_object, write_object
from vla_nodes.models.foreign_statistics import read_lerobot, read_openpi
from vla_nodes.models.scaling import STATISTICS, Mode, Scaling

NORMALIZATION = "normalization.json"
"""File in a checkpoint."""


@dataclass(frozen=True)
class Normalization:
    """Of a model's states and actions.

    Attributes:
        state: Of ``observation.state``.
        action: Of ``action``.
    """

    state: Scaling
    action: Scaling

    @classmethod
    def of_statistics(
        cls,
        statistics: Mapping[str, Mapping[str, Any]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        mode: Mode,
    ) -> Self:
        """From the statistics of a LeRobot dataset, ``meta/stats.json``.

        Args:
            statistics: By column and name.
            state_names: Of the elements of ``observation.state``.
            action_names: Of those of ``action``.
            mode: Which statistics to take.

        Raises:
            CheckpointError: They are missing, or a joint cannot be scaled by them.
        """
        return cls(
            Scaling.of_statistics(statistics, "observation.state", state_names, mode),
            Scaling.of_statistics(statistics, "action", action_names, mode),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the normalisation of a checkpoint.

        It lies in ``normalization.json``, else in LeRobot's two processor files, else in
        openpi's ``assets/ROBOT/norm_stats.json``. The last two have no names of joints.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        path = folder / NORMALIZATION
        if path.exists():
            content = read_object(path)
            with faults_of(path):
                return cls(_saved(content, "state"), _saved(content, "action"))
        foreign = read_lerobot(folder) or read_openpi(folder)
        if foreign is None:
            raise CheckpointError(
                f"{folder} has no statistics: expected {NORMALIZATION}, LeRobot's "
                "policy_preprocessor.json or openpi's assets/ROBOT/norm_stats.json"
            )
        return cls(*foreign)

    def write(self, folder: Path) -> None:
        """Writes ``normalization.json``.

        Raises:
            OSError: The disk refused.
        """
        content = {}
        for key, scaling in (("state", self.state), ("action", self.action)):
            first, second = STATISTICS[scaling.mode]
            content[key] = {
                "mode": scaling.mode,
                "names": list(scaling.names),
                first: list(scaling.low),
                second: list(scaling.high),
            }
        write_object(folder / NORMALIZATION, content)

    def named(self, state_names: Sequence[str], action_names: Sequence[str]) -> Self:
        """The same for a robot.

        Args:
            state_names: Of the elements of its state, in its order.
            action_names: Of those of its action.

        Raises:
            CheckpointError: The statistics are of other joints, or in another order.
        """
        with faults_of("state"):
            state = self.state.named(state_names)
        with faults_of("action"):
            return type(self)(state, self.action.named(action_names))


def _saved(content: Mapping[str, Any], key: str) -> Scaling:
    ours = content.get(key)
    if not isinstance(ours, dict):
        raise CheckpointError(f"there is no {key}")
    mode, names = ours.get("mode"), ours.get("names")
    if mode not in ("quantile", "mean_std"):
        raise CheckpointError(f"{key} has mode {mode!r:.50}, expected quantile or mean_std")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{key} has names {names!r:.50}, expected a list of texts")
    return Scaling.of_statistics(content, key, names, mode)
