# SPDX-License-Identifier: Apache-2.0
"""The recipe of the policy: a hierarchical pi0.5 on demonstrations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from vla_nodes.models.checkpoint import RobotInterface, write_checkpoint
from vla_nodes.models.normalization import NORMALIZATION, Normalization
from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.collation import Batch
from vla_training.recipes.job import Job, Prepared
from vla_training.recipes.lora import merged_weights
from vla_training.recipes.policy_batches import FlowDraws, PolicyBatches
from vla_training.recipes.policy_data import PolicyData, read_data
from vla_training.recipes.policy_model import (
    FAST,
    Beginning,
    digests,
    make_model,
    read_beginning,
)
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.recipes.run_folder import claim, stopped
from vla_training.recipes.training_loop import train


def train_policy(settings: PolicySettings) -> str:
    """Trains a policy; ``out/checkpoint`` is then a complete checkpoint.

    Returns:
        What was done, for people.

    Raises:
        TrainingError: The settings do not fit folder, data or model, or training failed.
        DataError: The data cannot be used.
        CheckpointError: The checkpoint to begin from cannot be used.
        KeyboardInterrupt: It was interrupted, after its state was saved.
        OSError: The disk refused.
    """
    out = settings.out
    beginning = read_beginning(settings)
    data = read_data(settings.data, beginning.config, subtasks=settings.plans)
    data = as_before(beginning, settings, data)
    claim(out, settings, resume=settings.resume)
    model = make_model(beginning, settings)
    robot = robot_of(settings, data, beginning)

    fast = beginning.fast

    def export() -> None:
        write_checkpoint(
            out / "checkpoint",
            merged_weights(model),
            beginning.config,
            robot,
            data.normalization,
            beginning.tokenizer,
            (lambda folder: fast.write(folder / FAST)) if fast else None,
        )

    job = Job(
        model=model,
        objective=PolicyObjective(settings, make_batches(settings, beginning, data)),
        items=data.training,
        validation=data.validation,
        augmentation=Augmentation() if settings.data.augment else None,
        export=export,
        identity=digests(beginning, data.normalization, robot),
    )
    ended = train(job, settings.loop, out, resume=settings.resume)
    if ended.interrupted:
        raise KeyboardInterrupt(stopped(out, ended, settings.loop))
    return f"{out / 'checkpoint'}: {settings.mode}, {ended.step} steps"


def as_before(beginning: Beginning, settings: PolicySettings, data: PolicyData) -> PolicyData:
    """The data, in the terms that a checkpoint's weights have learnt.

    Cameras come in its order where they are the same. Where a part of it stays as it is, states
    and actions of the same joints are scaled as they were: to that part their numbers mean
    something.
    """
    before, folder = beginning.robot, beginning.folder
    if not before or not folder:
        return data
    robot = data.robot
    if not settings.data.cameras and set(before.cameras) == set(robot.cameras):
        data = replace(data, robot=replace(robot, cameras=before.cameras))
    joints = (robot.state_names, robot.action_names)
    same_joints = (before.state_names, before.action_names) == joints
    if settings.mode == "joint" or not same_joints or not (folder / NORMALIZATION).exists():
        return data
    return replace(data, normalization=Normalization.read(folder))


def make_batches(settings: PolicySettings, beginning: Beginning, data: PolicyData) -> PolicyBatches:
    """What turns the data's batches into the model's."""
    return PolicyBatches(
        config=beginning.config,
        tokenizer=beginning.tokenizer,
        normalization=data.normalization,
        cameras=data.robot.cameras,
        plans=settings.plans,
        acts=settings.acts,
        fast=beginning.fast if settings.mode == "planner-fast" else None,
        advantage_dropout=settings.advantage_dropout if settings.advantage else 1.0,
        flow_samples=settings.flow_samples,
    )


def robot_of(settings: PolicySettings, data: PolicyData, beginning: Beginning) -> RobotInterface:
    """The interface of the trained policy; what is not trained is as it was before."""
    before = beginning.robot
    robot = data.robot
    if settings.plans:
        robot = replace(robot, action_tokens=settings.mode == "planner-fast")
    else:
        robot = replace(
            robot,
            subtasks=before.subtasks if before else (),
            action_tokens=before.action_tokens if before else False,
        )
    if settings.acts:
        return replace(robot, advantage=settings.advantage and robot.advantage)
    return replace(robot, advantage=before.advantage if before else False)


class PolicyObjective:
    """Text loss and action loss of a pi0.5; see ``job.Objective``."""

    def __init__(self, settings: PolicySettings, batches: PolicyBatches) -> None:
        self._batches = batches
        self._insulate = settings.insulate or not settings.plans
        self._flow_samples = settings.flow_samples
        self._weigh = settings.data.weigh
        alpha = {"joint": settings.alpha, "expert": 1.0}.get(settings.mode)
        text = {"text": 1.0} if settings.plans else {}
        self.weights: Mapping[str, float] = {**text, **({"action": alpha} if alpha else {})}

    def prepare(
        self, batch: Batch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The model's batch with noise and times, and how many tokens and elements it has."""
        made, draws = self._batches.make(batch, rngs, device)
        counts: dict[str, Tensor] = {}
        if made.target:
            counts["text"] = made.target.mask.sum()
        if made.action:
            counts["action"] = learnt(made.action).sum() * made.action.dims * self._flow_samples
        weight = None
        if self._weigh:
            # Their mean over the data is 1: what has none counts so, and counts stay as they are.
            weight = batch.weight.nan_to_num(1.0).repeat(self._flow_samples).to(device)
        return Prepared((made, draws, weight), counts)

    def losses(
        self, model: nn.Module, inputs: tuple[Pi05Batch, FlowDraws | None, Tensor | None]
    ) -> dict[str, Tensor]:
        """Runs the model."""
        batch, draws, weight = inputs
        flow = vars(draws) if draws else {}
        output = model(batch, insulate=self._insulate, flow_samples=self._flow_samples, **flow)
        action = output.action_loss
        if action is not None and weight is not None:
            action = action * weight[:, None, None]
        losses = {"text": output.text_loss, "action": action}
        return {name: loss.sum() for name, loss in losses.items() if loss is not None}


def learnt(target: ActionTarget) -> Tensor:
    """(B, T) bool: actions that are learnt, being neither padding nor given."""
    places = torch.arange(target.is_pad.shape[1], device=target.is_pad.device)
    given = 0 if target.delay is None else target.delay[:, None]
    return ~target.is_pad & (places >= given)
