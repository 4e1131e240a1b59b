# SPDX-License-Identifier: Apache-2.0
"""The energy models that are set side by side: one policy's, and of one split of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_nodes.models.energy_checkpoint import (
    EnergyCheckpoint,
    check_policy,
    read_energy_checkpoint,
)
from vla_training.energy.energy_data import check_same_interface
from vla_training.recipes.settings_file import SETTINGS, read_settings

_OF_MODEL = ("form", "pooling", "bounded", "hidden", "heads", "dropout")
_OF_TRAINING = ("loss", "tau", "margin", "negatives")


@dataclass(frozen=True)
class Judge:
    """An energy model.

    Attributes:
        name: Short, and no other's.
        checkpoint: All but its weights.
        options: That it was made with; those of the training are known where ``settings.yaml``
            lies beside the checkpoint.
    """

    name: str
    checkpoint: EnergyCheckpoint
    options: Mapping[str, Any]


def open_judges(folders: Sequence[Path], policy: Path) -> list[Judge]:
    """Opens energy models.

    Args:
        folders: Of their checkpoints, one or more.
        policy: Folder of the policy's checkpoint.

    Raises:
        CheckpointError: One cannot be used, or is another policy's.
        DataError: They were trained for something else, or with another split of the data, so
            that one may have learned from what it would be judged on.
        TrainingError: The settings beside one cannot be read.
    """
    checkpoints = [read_energy_checkpoint(folder) for folder in folders]
    for one in {checkpoint.interface.policy: checkpoint for checkpoint in checkpoints}.values():
        check_policy(one, policy)
    first, *others = checkpoints
    for other in others:
        check_same_interface(other.interface, f"{other.folder}", first)
    names = short_names([checkpoint.folder for checkpoint in checkpoints])
    return [
        Judge(name, checkpoint, _options(checkpoint))
        for name, checkpoint in zip(names, checkpoints, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """Names of folders, as short as they can be told apart.

    What all end with says nothing and is left out: run_a/checkpoint and run_b/checkpoint are
    run_a and run_b.
    """
    parts = [list(folder.resolve().parts) for folder in folders]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    while len({part[-1] for part in parts}) == 1:
        for part in parts:
            part.pop()
    length = 1
    while len({tuple(part[-length:]) for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def _options(checkpoint: EnergyCheckpoint) -> dict[str, Any]:
    beside = checkpoint.folder.resolve().parent / SETTINGS
    settings = read_settings(beside) if beside.is_file() else {}
    model = asdict(checkpoint.config)
    return {
        **{name: settings[name] for name in _OF_TRAINING if name in settings},
        **{name: model[name] for name in _OF_MODEL},
    }
