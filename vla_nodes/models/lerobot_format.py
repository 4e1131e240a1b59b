# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's configuration: LeRobot's ``config.json`` or openpi's, and our ``pi05.json``.

``config.json`` is what LeRobot's ``PI05Config`` parses. What that has no words for lies beside
it: sizes of the model, and the robot. A folder without ``pi05.json`` is LeRobot's or openpi's.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vla_nodes.models.entries import LARGEST, Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object, write_object
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05_config import GemmaSize, Pi05Config, VisionSize, full
from vla_nodes.models.robot_interface import RobotInterface

CONFIG = "config.json"
OWN_CONFIG = "pi05.json"
VISION, VOCABULARY, IMAGE_SIZE = full().vision, full().vocabulary, full().image_size
VARIANTS = {"gemma_2b": full().language, "gemma_300m": full().expert}
"""What LeRobot and openpi build."""

_OTHER = "other"  # LeRobot refuses it; of a variant that it knows it would run random weights
_MODES = {"quantile": "QUANTILES", "mean_std": "MEAN_STD"}
_MOST = {
    **{"depth": 128, "chunk_size": 1000, "action_horizon": 1000, "num_inference_steps": 1000},
    **{"tokenizer_max_length": 8192, "max_subtask_tokens": 8192},
}
_VIEWS, _STATE, _ACTION = "observation.images.", "observation.state", "action"
# What changes nothing in what a model computes from the weights; or a whole group of such.
_IRRELEVANT = (
    *("device", "dtype", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license"),
    *("pretrained_", "n_action_steps", "relative_exclude_joints", "rtc_config", "empty_cameras"),
    *("normalization_mapping", "gradient_checkpointing", "compile_", "freeze_vision_encoder"),
    *("train_expert_only", "time_sampling_", "optimizer_", "scheduler_"),
)
_ADVICE = "; other policies run with the lerobot backend"


def read_config(folder: Path) -> tuple[Pi05Config, RobotInterface | None]:
    """Reads the configuration of a checkpoint.

    Returns:
        The model's, and what it was trained for; None where nothing says so, as with openpi.

    Raises:
        CheckpointError: A file is missing or wrong.
    """
    content = read_object(folder / CONFIG)
    entries = Entries(folder / CONFIG, content)
    try:
        if "action_horizon" in content:
            return _read_openpi(entries), None
        own = None
        if (folder / OWN_CONFIG).exists() or content.get("paligemma_variant") == _OTHER:
            own = Entries(folder / OWN_CONFIG, read_object(folder / OWN_CONFIG))
        return _read_lerobot(entries, own)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder}: the model's sizes do not fit: {error}") from None


def write_config(
    folder: Path,
    config: Pi05Config,
    robot: RobotInterface | None,
    normalization: Normalization,
    dtype: str,
) -> None:
    """Writes ``config.json`` and ``pi05.json``.

    Args:
        folder: Of the checkpoint.
        config: Of the model.
        robot: What it was trained for.
        normalization: Says how many elements states and actions have.
        dtype: Of the weights, ``float32`` or ``bfloat16``.

    Raises:
        OSError: The disk refused.
    """
    picture = {"type": "VISUAL", "shape": [3, config.image_size, config.image_size]}
    state, action = normalization.state, normalization.action
    language, expert = _variants(config)
    theirs = {
        "type": "pi05",
        "input_features": {
            **{f"{_VIEWS}{camera}": picture for camera in (robot.cameras if robot else ())},
            _STATE: {"type": "STATE", "shape": [len(state.names)]},
        },
        "output_features": {_ACTION: {"type": "ACTION", "shape": [len(action.names)]}},
        "paligemma_variant": language,
        "action_expert_variant": expert,
        "dtype": dtype,
        "chunk_size": config.chunk,
        "n_action_steps": config.chunk,
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "num_inference_steps": config.steps,
        "min_period": config.min_period,
        "max_period": config.max_period,
        "image_resolution": [config.image_size, config.image_size],
        "tokenizer_max_length": config.max_prompt_tokens,
        "normalization_mapping": {
            "VISUAL": "IDENTITY",
            "STATE": _MODES[state.mode],
            "ACTION": _MODES[action.mode],
        },
        "action_feature_names": robot.action_names if robot else None,
    }
    own = {
        "vision": asdict(config.vision),
        "language": asdict(config.language),
        "expert": asdict(config.expert),
        "vocabulary": config.vocabulary,
        "max_subtask_tokens": config.max_subtask_tokens,
        "max_delay": config.max_delay,
        "pad_state": config.pad_state,
        "robot": robot
        and {
            "state_names": robot.state_names,
            "fps": robot.fps,
            "subtasks": robot.subtasks,
            "advantage": robot.advantage,
            "action_tokens": robot.action_tokens,
        },
    }
    write_object(folder / CONFIG, theirs)
    write_object(folder / OWN_CONFIG, own)


def is_lerobots(config: Pi05Config) -> bool:
    """Whether LeRobot can build a model of these sizes."""
    return _OTHER not in _variants(config)


def _variants(config: Pi05Config) -> tuple[str, str]:
    """Names of the language model and of the expert."""
    named = {size: name for name, size in VARIANTS.items()}
    if (config.vision, config.vocabulary) != (VISION, VOCABULARY):
        return _OTHER, _OTHER
    return named.get(config.language, _OTHER), named.get(config.expert, _OTHER)


def _read_openpi(entries: Entries) -> Pi05Config:
    """A prompt of openpi's pi0.5 holds the robot's own state; it pads only afterwards."""
    config = Pi05Config(
        vision=VISION,
        language=entries.choice("paligemma_variant", VARIANTS),
        expert=entries.choice("action_expert_variant", VARIANTS),
        vocabulary=VOCABULARY,
        image_size=IMAGE_SIZE,
        chunk=_integer(entries, "action_horizon"),
        max_state_dim=_integer(entries, "action_dim"),
        max_action_dim=_integer(entries, "action_dim"),
        pad_state=False,
    )
    entries.raw("precision")  # the weights say theirs themselves
    entries.refuse_left()
    return config


def _read_lerobot(
    entries: Entries, own: Entries | None
) -> tuple[Pi05Config, RobotInterface | None]:
    if entries.raw("type") != "pi05":
        entries.refuse("type", f"pi05{_ADVICE}")
    for key, only in (("use_relative_actions", False), ("use_peft", False), ("n_obs_steps", 1)):
        if entries.raw(key, only) != only:
            entries.refuse(key, f"{str(only).lower()}{_ADVICE}")
    resolution = entries.shape("image_resolution")
    if len(resolution) != 2 or len(set(resolution)) > 1:
        entries.refuse("image_resolution", "the same height and width")
    variants = {**VARIANTS, _OTHER: None} if own else VARIANTS
    language = entries.choice("paligemma_variant", variants)
    expert = entries.choice("action_expert_variant", variants)
    sizes = {"vision": VISION, "language": language, "expert": expert, "vocabulary": VOCABULARY}
    config = Pi05Config(
        **(_read_own_sizes(own) if own else {**sizes, "pad_state": False}),
        image_size=resolution[0],
        chunk=_integer(entries, "chunk_size"),
        max_state_dim=_integer(entries, "max_state_dim"),
        max_action_dim=_integer(entries, "max_action_dim"),
        steps=_integer(entries, "num_inference_steps"),
        max_prompt_tokens=_integer(entries, "tokenizer_max_length"),
        min_period=entries.number("min_period"),
        max_period=entries.number("max_period"),
    )
    robot = _read_robot(entries, own)
    for key in entries.left():
        if not key.startswith(_IRRELEVANT) and entries.raw(key):
            entries.refuse(key, f"no such setting{_ADVICE}")
    return config, robot


def _read_own_sizes(own: Entries) -> dict[str, Any]:
    return {
        "vision": _size(own.part("vision"), VisionSize),
        "language": _size(own.part("language"), GemmaSize),
        "expert": _size(own.part("expert"), GemmaSize),
        "vocabulary": own.integer("vocabulary"),
        "max_subtask_tokens": _integer(own, "max_subtask_tokens"),
        "max_delay": own.integer("max_delay", least=0),
        "pad_state": own.flag("pad_state"),
    }


def _read_robot(entries: Entries, own: Entries | None) -> RobotInterface | None:
    found = []
    for key, feature in entries.part("input_features").parts().items():
        if feature.raw("type") == "VISUAL" and not key.startswith(f"{_VIEWS}empty_camera_"):
            found.append(key.removeprefix(_VIEWS))
    cameras = entries.checked_names("input_features", found)
    entries.part("output_features")
    action_names = entries.names("action_feature_names", None)
    if own is None:
        return RobotInterface(cameras, None, action_names, None)
    robot = None
    if own.raw("robot") is not None:
        said = own.part("robot")
        robot = RobotInterface(
            cameras,
            said.names("state_names"),
            action_names,
            None if said.raw("fps") is None else said.number("fps"),
            said.names("subtasks") or (),
            said.flag("advantage"),
            said.flag("action_tokens"),
        )
        said.refuse_left()
    own.refuse_left()
    return robot


def _integer(entries: Entries, key: str) -> int:
    return entries.integer(key, most=_MOST.get(key, LARGEST))


def _size(entries: Entries, kind: Any) -> Any:
    size = kind(**{field.name: _integer(entries, field.name) for field in fields(kind)})
    entries.refuse_left()
    return size
