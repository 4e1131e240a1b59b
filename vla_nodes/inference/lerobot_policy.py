# SPDX-License-Identifier: Apache-2.0
"""Any policy folder of LeRobot, with LeRobot's own code and its own processors.

Nothing else in this package needs LeRobot. Nothing is fetched: tokenisers and configurations
of backbones lie in the folder or in this machine's Hugging Face cache.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vla_nodes.contract import Contract, StateSource
from vla_nodes.inference.lerobot_folder import (
    CAMERA_PREFIX,
    STATE,
    WEIGHTS,
    LeRobotFolder,
    read_folder,
    weight_shapes,
)
from vla_nodes.inference.policy import ActionPlan, PolicyError
from vla_nodes.inference.rehearsal import blank_observation, check_device
from vla_nodes.models.errors import CheckpointError
from vla_nodes.observation.observation import Observation

SEED = 0
_log = logging.getLogger(__name__)

Batch = dict[str, Any]


class LeRobotPolicy:
    """Meets ``vla_nodes.inference.Policy``; without a planner, so that the task is the subtask.

    A policy that looks at several observations (diffusion) gets those of earlier calls that lie
    a frame of the contract apart. Where there is none, as at the beginning of a task or when
    chunks take longer than a frame, the next later one stands in, as LeRobot does it.

    Args:
        contract: Of the robot.
        checkpoint: Folder that LeRobot's ``save_pretrained`` wrote: policy and processors.
        device: Where to compute.

    Raises:
        ImportError: LeRobot, or what it needs for this kind of policy, is not installed.
        PolicyError: The folder is damaged, or is for another robot.
    """

    extra_states: Sequence[StateSource] = ()

    def __init__(self, contract: Contract, checkpoint: str, device: str) -> None:
        try:
            folder = read_folder(Path(checkpoint), contract)
            check_device(device)
            self._policy, self._before, self._after = _load(folder, device)
        except CheckpointError as error:
            raise PolicyError(str(error)) from error
        except RuntimeError as error:  # out of memory, for one
            raise PolicyError(f"the policy cannot be loaded: {error!r:.300}") from error
        self._frame = contract.dt * 1e9
        self._actions = len(contract.action_names)
        self._history: list[tuple[int, Batch]] = []
        self._try_out(contract)

    def reset(self) -> None:
        """Forget earlier observations, and begin the noise anew."""
        self._policy.reset()
        self._before.reset()
        self._after.reset()
        self._history = []
        self._began: int | None = None
        self._warned = False
        torch.manual_seed(SEED)

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The task itself."""
        del observation
        return task

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """The whole chunk that the policy predicts."""
        batch = self._before(_batch(observation, subtask))
        with torch.no_grad():
            chunk = self._policy.predict_action_chunk(self._with_history(observation.stamp, batch))
        actions = self._after(chunk)[0].double().cpu().numpy()
        if actions.ndim != 2 or actions.shape[1] != self._actions or not np.isfinite(actions).all():
            raise RuntimeError(
                f"the policy gave actions of shape {actions.shape}, expected finite ones of "
                f"(T, {self._actions})"
            )
        return ActionPlan(actions)

    def _with_history(self, stamp: int, batch: Batch) -> Batch:
        """The batch with its observations stacked on earlier ones, (1, n_obs_steps, ...)."""
        steps = self._policy.config.n_obs_steps
        if steps == 1:
            return batch
        self._began = stamp if self._began is None else self._began
        span = steps * self._frame
        self._history = [seen for seen in self._history if 0 < stamp - seen[0] <= span]
        self._history.append((stamp, batch))
        frames = [batch]
        for back in range(1, steps):
            wanted = stamp - back * self._frame
            seen, frame = min(self._history, key=lambda entry: abs(entry[0] - wanted))
            missing = abs(seen - wanted) > self._frame / 2
            frames.insert(0, frames[0] if missing else frame)
            if missing and wanted >= self._began:
                self._warn_of_gap()
        keys = [key for key in batch if key == STATE or key.startswith(CAMERA_PREFIX)]
        return batch | {key: torch.stack([f[key] for f in frames], dim=1) for key in keys}

    def _warn_of_gap(self) -> None:
        if self._warned:
            return
        self._warned = True
        _log.warning(
            "the policy looks at observations %.0f ms apart, but chunks are further apart: a "
            "later one stands in; set 'rate' to the contract's fps, or compute faster",
            self._frame * 1e-6,
        )

    def _try_out(self, contract: Contract) -> None:
        """Run the policy once on black pictures, so that a fault shows now and not at work."""
        self.reset()
        try:
            self.act(blank_observation(contract), "")
        except Exception as error:
            raise PolicyError(f"the policy fails on an observation: {error!r:.300}") from error
        self.reset()


def _batch(observation: Observation, task: str) -> Batch:
    """What LeRobot's processors take: pictures (3, H, W) from 0 to 1 and a state (S,)."""
    pictures = {
        CAMERA_PREFIX + name: torch.tensor(picture).permute(2, 0, 1).float() / 255.0
        for name, picture in observation.images.items()
        if picture.ndim == 3
    }
    return {**pictures, STATE: torch.tensor(observation.state, dtype=torch.float32), "task": task}


def _load(folder: LeRobotFolder, device: str) -> tuple[Any, Any, Any]:
    """The policy and the pipelines before and after it."""
    # Whatever else LeRobot might want to fetch; read when the Hub's library is first imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    except ImportError as error:
        raise ImportError(
            f"it needs LeRobot, which is not installed ({error}): pip install lerobot"
        ) from error
    try:
        config = PreTrainedConfig.from_pretrained(folder.path, local_files_only=True)
    except Exception as error:  # of its parser, which raises nothing narrower
        raise CheckpointError(
            f"{folder.path}/config.json: LeRobot cannot read it: {error!s:.300}"
        ) from error
    _keep_local(config, folder)
    policy = _load_policy(get_policy_class(config.type), config, folder.path / WEIGHTS, device)
    overrides: dict[str, dict[str, Any]] = {"device_processor": {"device": device}}
    for step in folder.configs_of("tokenizer_processor"):
        name = _local(str(step.get("tokenizer_name")), folder.path / "tokenizer", "tokenizer")
        overrides["tokenizer_processor"] = {"tokenizer_name": name}
    try:
        before, after = make_pre_post_processors(
            config, pretrained_path=str(folder.path), preprocessor_overrides=overrides
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder.path}: its processors: {error!s:.300}") from error
    return policy, before, after


def _keep_local(config: Any, folder: LeRobotFolder) -> None:
    """Have nothing fetched: the weights of backbones are in the checkpoint."""
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None
    if hasattr(config, "vlm_model_name"):
        config.load_vlm_weights = False
        config.vlm_model_name = _local(config.vlm_model_name, folder.path / "vlm", "backbone")


def _local(name: str, beside: Path, what: str) -> str:
    """A folder on this machine that stands for a name on the Hugging Face Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if beside.is_dir():
        return str(beside)
    try:
        return snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"the policy's {what} '{name:.200}' is not on this machine, and nothing is fetched: "
            f"put its files in '{beside}', or run 'hf download {name:.200}' while online"
        ) from error


def _load_policy(make: Any, config: Any, file: Path, device: str) -> Any:
    """The policy with its weights, every one of them checked before any is read."""
    config.device = "meta"
    try:
        with torch.device("meta"):
            skeleton = make(config)
    except ImportError:
        raise
    except Exception as error:  # whatever values that do not go together make it raise
        raise CheckpointError(
            f"{file.parent}/config.json: LeRobot cannot build it: {error!s:.300}"
        ) from error
    _check_weights(skeleton, file)
    config.device = device
    policy = make(config)
    policy.load_state_dict(_renamed(policy, load_file(file)), strict=False)
    return policy.to(device).eval()


def _renamed(policy: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as the policy has them: pi0 and pi0.5 also take those of openpi."""
    if not hasattr(policy, "_fix_pytorch_state_dict_keys"):
        return dict(tensors)
    fixed = policy._fix_pytorch_state_dict_keys(tensors, policy.config)
    return {"model." + name.removeprefix("model."): value for name, value in fixed.items()}


def _check_weights(policy: Any, file: Path) -> None:
    """Names and shapes in the file are the policy's; of tied weights one suffices."""
    there = {name: torch.empty(shape, device="meta") for name, shape in weight_shapes(file).items()}
    there = _renamed(policy, there)
    wanted = policy.state_dict(keep_vars=True)
    present = {id(wanted[name]) for name in there if name in wanted}
    missing = [name for name, tensor in wanted.items() if id(tensor) not in present]
    unknown = [name for name in there if name not in wanted]
    other = [
        f"{name} is {tuple(there[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in there
        if name in wanted and there[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(found)} tensors {what} ({', '.join(found[:3])})"
        for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", other))
        if found
    ]
    if problems:
        raise CheckpointError(f"{file} does not fit its config.json: {'; '.join(problems)}")
