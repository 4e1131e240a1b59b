# SPDX-License-Identifier: Apache-2.0
"""A policy folder of LeRobot, checked against a robot before LeRobot is loaded.

Loading LeRobot takes many seconds; what is wrong with a folder is said before that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vla_nodes.contract import Camera, Contract
from vla_nodes.inference.joint_names import check_joints
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object
from vla_nodes.models.scaling import LEAST_SPREAD

WEIGHTS = "model.safetensors"
CAMERA_PREFIX = "observation.images."
STATE, ACTION = "observation.state", "action"

_EMPTY = f"{CAMERA_PREFIX}empty_camera_"  # which the policy itself fills in as absent
_KINDS = ("act", "diffusion", "smolvla", "pi0", "pi05")
_RESIZING = ("pi0", "pi05")  # whatever their options; diffusion and SmolVLA only by option
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PIPELINES = ("policy_preprocessor.json", "policy_postprocessor.json")
_SPREADS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


@dataclass(frozen=True)
class LeRobotFolder:
    """A folder that fits the robot.

    Attributes:
        path: Of the folder.
        config: Of the policy, as ``config.json`` has it.
        steps: Of both processors, the preprocessor's first.
    """

    path: Path
    config: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]

    def configs_of(self, step: str) -> Iterator[Mapping[str, Any]]:
        """Configurations of the processor steps that are registered as ``step``."""
        return (s.get("config") or {} for s in self.steps if s["registry_name"] == step)


def read_folder(path: Path, contract: Contract) -> LeRobotFolder:
    """Reads all but the weights.

    Args:
        path: Of the folder, as LeRobot's ``save_pretrained`` writes it.
        contract: Of the robot.

    Raises:
        CheckpointError: Something is missing or damaged, or is of another robot.
    """
    if not path.is_dir():
        raise CheckpointError(f"there is no folder '{path}'; expected one that LeRobot wrote")
    if (path / "pretrained_model").is_dir():
        raise CheckpointError(f"the policy lies in '{path}/pretrained_model'; give that folder")
    config = read_object(path / "config.json")
    kind = config.get("type")
    if kind not in _KINDS:
        raise CheckpointError(
            f"{path}/config.json: type is {kind!r:.100}, expected one of {', '.join(_KINDS)}"
        )
    if config.get("use_peft"):
        raise CheckpointError(
            f"{path}/config.json: these are weights of an adapter (use_peft); merge them into "
            "their base and save that"
        )
    _check_weights(path)
    steps = [step for name in _PIPELINES for step in _read_steps(path / name)]
    folder = LeRobotFolder(path, config, steps)
    try:
        _check_cameras(folder, contract)
        _check_vectors(folder, contract)
        _check_statistics(folder, contract)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its JSON is not as LeRobot writes it: {error!r:.200}"
        ) from error
    return folder


def _check_weights(path: Path) -> None:
    file = path / WEIGHTS
    if file.is_file():
        weight_shapes(file)
        return
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in _PICKLED)
    if pickled:
        raise CheckpointError(
            f"{path} has its weights in {pickled[0]}: such a file can run code and is never "
            f"read; save the policy again as {WEIGHTS}"
        )
    raise CheckpointError(f"{file} is missing")


def weight_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file, by name.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            return {k: tuple(tensors.get_slice(k).get_shape()) for k in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from error


def _read_steps(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        raise CheckpointError(
            f"{path} is missing; a policy of LeRobot before 0.4 has to be converted first: "
            "python -m lerobot.processor.migrate_policy_normalization"
        )
    steps = read_object(path).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path} has no list of steps")
    for step in steps:
        # A step may also name any class of any module, which LeRobot would import and run.
        if not isinstance(step.get("registry_name"), str):
            raise CheckpointError(
                f"{path} has a step {step.get('class')!r:.100}; only LeRobot's own are run, "
                "which have a registry_name"
            )
        file = step.get("state_file")
        if file is None:
            continue
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path} names {file!r:.100}, expected a file beside it")
        if not (path.parent / file).is_file():
            raise CheckpointError(f"{path.parent / file} is missing, which {path.name} names")
    return steps


def _shape(folder: LeRobotFolder, features: str, key: str) -> tuple[int, ...] | None:
    """Shape of a feature of ``input_features`` or ``output_features``; None without it."""
    feature = (folder.config.get(features) or {}).get(key)
    return None if feature is None else tuple(feature["shape"])


def _check_cameras(folder: LeRobotFolder, contract: Contract) -> None:
    config = folder.config
    renamed: dict[str, str] = {}
    for step in folder.configs_of("rename_observations_processor"):
        renamed |= step.get("rename_map") or {}
    cameras: dict[str, Camera] = {}
    for camera in contract.cameras:
        key = CAMERA_PREFIX + camera.name
        cameras[renamed.get(key, key)] = camera
    scaling = (config.get("resize_shape"), config.get("resize_imgs_with_padding"))
    resizes = config["type"] in _RESIZING or any(scaling)
    for key in config.get("input_features") or {}:
        shape = _shape(folder, "input_features", key)
        if key == STATE or key.startswith(_EMPTY) or shape is None:
            continue
        seen = cameras.get(key)
        if seen is None:
            names = ", ".join(c.name for c in contract.cameras) or "none"
            raise CheckpointError(
                f"the policy looks at {key}, which '{contract.robot}' does not have; its cameras: "
                f"{names}"
            )
        if seen.encoding == "16UC1":
            raise CheckpointError(f"camera {seen.name} gives depth; the policy wants colours")
        if shape != (3, *seen.shape) and not resizes:
            raise CheckpointError(
                f"camera {seen.name} gives pictures of {seen.shape[1]} x {seen.shape[0]} px, the "
                f"policy was trained on {shape[-1]} x {shape[-2]}; crop or scale them alike"
            )


def _check_vectors(folder: LeRobotFolder, contract: Contract) -> None:
    for features, key, names in (
        ("input_features", STATE, contract.state_names),
        ("output_features", ACTION, contract.action_names),
    ):
        shape = _shape(folder, features, key)
        if shape is None and key == STATE:
            continue  # a policy that only looks
        if shape != (len(names),):
            raise CheckpointError(
                f"the policy's {key} has shape {shape}, '{contract.robot}' has {len(names)}: "
                f"{', '.join(names):.300}"
            )
    theirs = folder.config.get("action_feature_names") or None
    check_joints(theirs, contract.action_names, contract.robot)


def _check_statistics(folder: LeRobotFolder, contract: Contract) -> None:
    """LeRobot leaves unscaled, without a word, what it has no statistics of."""
    config = folder.config
    wanted = {
        "normalizer_processor": config.get("input_features") or {},
        "unnormalizer_processor": config.get("output_features") or {},
    }
    joints = {STATE: contract.state_names, ACTION: contract.action_names}
    for step, features in wanted.items():
        statistics = _statistics(folder, step)
        modes = dict(config.get("normalization_mapping") or {})
        for how in folder.configs_of(step):
            modes |= how.get("norm_map") or {}
        for key, feature in features.items():
            mode = modes.get(feature["type"], "IDENTITY")
            if mode == "IDENTITY" or key.startswith(_EMPTY):
                continue
            if mode not in _SPREADS:
                raise CheckpointError(f"{key} is scaled by {mode!r:.50}, which is not known")
            first, second = (statistics.get(f"{key}.{name}") for name in _SPREADS[mode])
            if first is None or second is None:
                raise CheckpointError(
                    f"{folder.path}: the {step} has no {' and '.join(_SPREADS[mode])} of {key}"
                )
            _check_spread(key, joints.get(key), first, second, mode)


def _statistics(folder: LeRobotFolder, registered: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for step in folder.steps:
        if step["registry_name"] == registered and step.get("state_file"):
            file = folder.path / step["state_file"]
            weight_shapes(file)
            with safe_open(file, framework="np") as tensors:
                found |= {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    return found


def _check_spread(
    key: str, joints: Sequence[str] | None, first: np.ndarray, second: np.ndarray, mode: str
) -> None:
    expected = first.shape if joints is None else (len(joints),)
    if not first.shape == second.shape == expected:
        raise CheckpointError(
            f"the statistics of {key} have shapes {first.shape} and {second.shape}, expected "
            f"{expected}"
        )
    spread = second if mode == "MEAN_STD" else second - first
    bad = ~(np.isfinite(first) & np.isfinite(second) & (spread >= LEAST_SPREAD))
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        what = f"joint '{joints[place]}'" if joints else f"channel {place}"
        low, high = first.flat[place], second.flat[place]
        names = _SPREADS[mode]
        raise CheckpointError(
            f"{key}: {what} has no spread ({names[0]} {low:.6g}, {names[1]} {high:.6g}): it "
            "hardly changes in the data; train on data in which it does"
        )
