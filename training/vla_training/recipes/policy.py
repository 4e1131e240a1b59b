# SPDX-License-Identifier: Apache-2.0
"""The recipe of the policy: a hierarchical pi0.5 on demonstrations."""

from dataclasses import replace

from vla_nodes.models.checkpoint import RobotInterface, write_checkpoint
from vla_nodes.models.normalization import NORMALIZATION, Normalization
from vla_training.data.loading.augmentation import Augmentation
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.recipes.energy_joint import with_energy
from vla_training.recipes.job import Job
from vla_training.recipes.lora import merged_weights
from vla_training.recipes.policy_data import PolicyData, read_data
from vla_training.recipes.policy_model import (
    FAST,
    Beginning,
    digests,
    make_model,
    read_beginning,
)
from vla_training.recipes.policy_objective import PolicyObjective
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
    if settings.energy.energy:
        job = with_energy(job, settings, robot, data.tables)
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
