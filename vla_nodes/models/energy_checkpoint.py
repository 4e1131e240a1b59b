# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of energy models: folders that hold all that a check needs beside its policy.

``config.json``, ``energy.json``, ``model.safetensors``, and once it was calibrated
``calibration.json``. An energy model reads the hidden states of one policy and means nothing to
another's, so its checkpoint holds a digest of that policy.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vla_nodes.models.checkpoint_folder import (
    CONFIG,
    check_same,
    find_checkpoint,
    write_folder,
    written,
)
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_calibration import CALIBRATION, EnergyCalibration
from vla_nodes.models.energy_config import TYPE, EnergyConfig
from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object, write_object
from vla_nodes.models.stored_tensors import FILE
from vla_nodes.models.tokenizer import TOKENIZER
from vla_nodes.models.weights import check_finite, compare, load_weights, save_tensors

INTERFACE = "energy.json"
_MOST_BYTES = 1 << 24  # half a million episodes
_FORMS = {name: name for name in ("tokens", "global")}
_POOLINGS = {name: name for name in ("mean", "attention")}


@dataclass(frozen=True)
class EnergyInterface:
    """What an energy model was trained for.

    Attributes:
        policy: Digest of the policy whose hidden states it reads; see ``policy_digest``.
        action_names: Of the elements of an action.
        fps: Actions per second.
        chunk: Actions in a chunk, T.
        split_seed: Of the split of the data by episode.
        shares: Of training, validation and test in it.
        episodes: Digests of the recordings that it was trained on; none where that is not known.
    """

    policy: str
    action_names: tuple[str, ...]
    fps: float
    chunk: int
    split_seed: int
    shares: tuple[float, float, float]
    episodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnergyCheckpoint:
    """All of a checkpoint but its weights.

    Attributes:
        folder: Where it lies.
        config: Sizes and form.
        interface: What it was trained for.
        calibration: None for a model that was not calibrated yet.
        written: Tells it from another that takes its place.
    """

    folder: Path
    config: EnergyConfig
    interface: EnergyInterface
    calibration: EnergyCalibration | None
    written: tuple[int, ...]


def policy_digest(folder: Path) -> str:
    """SHA-256 of all that a policy's hidden states follow from; half a second for each GB.

    Args:
        folder: Of the policy's checkpoint.

    Raises:
        CheckpointError: There is no checkpoint, or a file cannot be read.
    """
    files = [*folder.glob("*.json"), *folder.glob("*.safetensors")]
    files += [file for file in (folder / TOKENIZER).rglob("*") if file.is_file()]
    files += (folder / "assets").rglob("norm_stats.json")  # of openpi
    if not files:
        raise CheckpointError(f"{folder} holds no checkpoint, expected that of a policy")
    whole = hashlib.sha256()
    try:
        for file in sorted(files):
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            whole.update(f"{file.relative_to(folder)} {content}\n".encode())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error!s:.200}") from error
    return whole.hexdigest()


def check_policy(checkpoint: EnergyCheckpoint, policy: Path) -> None:
    """Checks that an energy model is this policy's.

    Raises:
        CheckpointError: It was trained with another policy, or the policy has changed since.
    """
    if policy_digest(policy) != checkpoint.interface.policy:
        raise CheckpointError(
            f"{checkpoint.folder} was trained with another policy than {policy}, or with an "
            "earlier state of it, and its energies would mean nothing; train it for this one: "
            f"vla-train energy --policy {policy}"
        )


def read_energy_checkpoint(source: str | Path) -> EnergyCheckpoint:
    """Reads all but the weights, of which it reads and checks names and shapes.

    Args:
        source: A folder, or OWNER/NAME on the Hugging Face Hub.

    Raises:
        CheckpointError: Something is missing, damaged, or does not fit the rest.
    """
    folder = find_checkpoint(source)
    stamp = written(folder)
    config = _read_config(folder / CONFIG)
    interface = _read_interface(folder / INTERFACE)
    if len(interface.action_names) != config.action_dim:
        raise CheckpointError(
            f"{folder / INTERFACE}: {len(interface.action_names)} action_names, expected "
            f"{config.action_dim}, as {CONFIG} says"
        )
    calibrated = (folder / CALIBRATION).exists()
    with torch.device("meta"):
        compare(folder, EnergyModel(config))
    calibration = EnergyCalibration.read(folder) if calibrated else None
    check_same(folder, stamp)
    return EnergyCheckpoint(folder, config, interface, calibration, stamp)


def load_energy_model(
    checkpoint: EnergyCheckpoint, device: torch.device | str = "cpu"
) -> EnergyModel:
    """Loads the model of a checkpoint, in float32.

    Raises:
        CheckpointError: The weights do not fit, are damaged, or were replaced meanwhile.
    """
    model = EnergyModel(checkpoint.config)
    load_weights(model, checkpoint.folder)
    check_same(checkpoint.folder, checkpoint.written)
    return model.to(device).eval()


def write_energy_checkpoint(
    folder: Path,
    weights: nn.Module | Mapping[str, Tensor],
    config: EnergyConfig,
    interface: EnergyInterface,
    calibration: EnergyCalibration | None = None,
) -> None:
    """Writes a checkpoint, whole or not at all; one that is there is replaced in one step.

    Args:
        folder: To be.
        weights: A model or its ``state_dict``.
        config: Of the model.
        interface: What it was trained for.
        calibration: Where it has one already.

    Raises:
        CheckpointError: The parts do not fit each other, weights are not finite, or the place
            is taken.
        OSError: The disk refused.
    """
    if (folder / CONFIG).exists():
        _read_config(folder / CONFIG)  # another model's folder is not replaced
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights

    def fill(partial: Path) -> None:
        write_object(partial / CONFIG, {"type": TYPE, **asdict(config)})
        write_object(partial / INTERFACE, asdict(interface))
        if calibration is not None:
            calibration.write(partial)
        save_tensors(partial / FILE, tensors)
        read_energy_checkpoint(partial)
        check_finite(partial, tensors)

    write_folder(folder, fill, (CONFIG, INTERFACE))


def _read_config(file: Path) -> EnergyConfig:
    entries = Entries(file, read_object(file))
    kind = entries.raw("type")
    if kind != TYPE:
        raise CheckpointError(
            f"{file}: type is {kind!r:.50}, expected {TYPE!r}: this is no energy model"
        )
    dropout = entries.raw("dropout")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        entries.refuse("dropout", "a number from 0 to less than 1")
    values: dict[str, Any] = {
        **{name: entries.integer(name) for name in ("state_dim", "action_dim", "hidden", "heads")},
        "dropout": float(dropout),
        "form": entries.choice("form", _FORMS),
        "pooling": entries.choice("pooling", _POOLINGS),
        "bounded": entries.flag("bounded"),
    }
    entries.refuse_left()
    try:
        return EnergyConfig(**values)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _read_interface(file: Path) -> EnergyInterface:
    entries = Entries(file, read_object(file, _MOST_BYTES))
    policy, names = entries.raw("policy"), entries.names("action_names")
    episodes = entries.raw("episodes", [])
    if not isinstance(policy, str) or not re.fullmatch("[0-9a-f]{64}", policy):
        entries.refuse("policy", "a SHA-256 in hexadecimal digits")
    if not names:
        entries.refuse("action_names", "names of one joint at least")
    if not isinstance(episodes, list) or not all(map(_is_digest, episodes)):
        entries.refuse("episodes", "a list of 16 hexadecimal digits each")
    interface = EnergyInterface(
        policy=policy,
        action_names=names,
        fps=entries.number("fps"),
        chunk=entries.integer("chunk"),
        split_seed=entries.integer("split_seed", 0, 2**31),
        shares=entries.shares("shares"),
        episodes=tuple(episodes),
    )
    entries.refuse_left()
    return interface


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{16}", value))
