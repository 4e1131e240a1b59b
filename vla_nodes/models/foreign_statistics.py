# SPDX-License-Identifier: Apache-2.0
"""How the checkpoints of LeRobot and openpi scale states and actions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from vla_nodes.models.errors import CheckpointError, faults_of
from vla_nodes.models.files import damaged, is_tensor_file, open_tensors, read_object
from vla_nodes.models.scaling import LEAST_SPREAD, STATISTICS, Mode, Scaling

_PREPROCESSOR = "policy_preprocessor.json"
_POSTPROCESSOR = "policy_postprocessor.json"
_LARGEST = 16 << 20  # bytes of a file of statistics
_LEROBOT_MODES: dict[str, Mode] = {"QUANTILES": "quantile", "MEAN_STD": "mean_std"}


def read_lerobot(folder: Path) -> tuple[Scaling, Scaling] | None:
    """What LeRobot scales the state with before its policy, and the action after it.

    Returns:
        Of the state and of the action, without names; None where there are no such files.

    Raises:
        CheckpointError: They are damaged, or scale in a way that is not known here.
    """
    before, after = folder / _PREPROCESSOR, folder / _POSTPROCESSOR
    if not before.exists():
        return None
    for step in _steps(before):
        relative = step.get("registry_name") == "relative_actions_processor"
        if relative and _config(step).get("enabled"):
            raise CheckpointError(
                f"{before}: actions are relative to the state; expected a policy that was "
                "trained on absolute actions"
            )
    return (
        _lerobot_scaling(before, "normalizer_processor", "STATE", "observation.state"),
        _lerobot_scaling(after, "unnormalizer_processor", "ACTION", "action"),
    )


def read_openpi(folder: Path) -> tuple[Scaling, Scaling] | None:
    """The quantiles in openpi's ``assets/ROBOT/norm_stats.json``, by which pi0.5 is trained.

    Returns:
        Of the state and of the action, without names, and without the padding that old files
        have behind the robot's joints; None where there is no such file.

    Raises:
        CheckpointError: It is damaged, or there are several.
    """
    assets = folder / "assets"
    found = sorted([*assets.glob("*/norm_stats.json"), *assets.glob("*/*/norm_stats.json")])
    if not found:
        return None
    if len(found) > 1:
        robots = ", ".join(str(path.parent.relative_to(assets)) for path in found)
        raise CheckpointError(
            f"{assets} has the statistics of several robots ({robots:.200}); "
            "leave those of the one that is to be run"
        )
    content = read_object(found[0], _LARGEST).get("norm_stats")
    with faults_of(found[0]):
        if not isinstance(content, dict):
            raise CheckpointError("there is no norm_stats")
        unpadded = {key: _unpadded(value) for key, value in content.items()}
        return (
            Scaling.of_statistics(unpadded, "state", None, "quantile"),
            Scaling.of_statistics(unpadded, "actions", None, "quantile"),
        )


def _steps(path: Path) -> list[dict[str, Any]]:
    steps = read_object(path).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path} has no list of steps, as LeRobot's processor files have")
    return steps


def _config(step: Mapping[str, Any]) -> dict[str, Any]:
    config = step.get("config")
    return config if isinstance(config, dict) else {}


def _lerobot_scaling(path: Path, registered: str, kind: str, key: str) -> Scaling:
    """Of one vector: ``registered`` names the step, ``kind`` and ``key`` the vector in it."""
    step = next((s for s in _steps(path) if s.get("registry_name") == registered), None)
    if step is None:
        raise CheckpointError(f"{path} has no step {registered}")
    modes = _config(step).get("norm_map")
    found = modes.get(kind) if isinstance(modes, dict) else None
    mode = _LEROBOT_MODES.get(found) if isinstance(found, str) else None
    if mode is None:
        known = " or ".join(_LEROBOT_MODES)
        raise CheckpointError(f"{path} scales {kind} by {found!r:.50}, expected {known}")
    file = step.get("state_file")
    if not is_tensor_file(file):
        raise CheckpointError(
            f"{path} names {file!r:.100} as the statistics of its step {registered}, "
            "expected a .safetensors beside it"
        )
    tensors = path.with_name(file)
    statistics = {key: _tensors(tensors, key, STATISTICS[mode])}
    with faults_of(tensors):
        return Scaling.of_statistics(statistics, key, None, mode)


def _tensors(path: Path, key: str, names: Sequence[str]) -> dict[str, Any] | None:
    """Statistics of one vector; None where there is none of them."""
    with open_tensors(path) as file:
        try:
            if path.stat().st_size > _LARGEST:
                raise CheckpointError(f"{path} is too large: expected at most {_LARGEST} bytes")
            there = [name for name in names if f"{key}.{name}" in file.keys()]  # noqa: SIM118
            tensors = {name: file.get_tensor(f"{key}.{name}") for name in there}
        except (OSError, SafetensorError) as error:
            raise damaged(path, error) from error
    return {name: tensor.double().numpy() for name, tensor in tensors.items()} or None


def _unpadded(statistics: Any) -> Any:
    """Without the elements at the end that were zero throughout; faults are left to others."""
    try:
        first, second = (statistics[name] for name in STATISTICS["quantile"])
        extent = np.abs(np.array([first, second], np.float64)).max(axis=0)
        count = int(np.flatnonzero(extent >= LEAST_SPREAD)[-1]) + 1
        return {**statistics, "q01": first[:count], "q99": second[:count]}
    except (TypeError, ValueError, LookupError, OverflowError):
        return statistics
