# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the simulated arm, made offline by its scripted expert."""

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np

import vla_nodes.sim.arm_env  # noqa: F401  (registers the environment)
from vla_nodes.sim.arm_env import FPS, IMAGE
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.scene import JOINTS
from vla_nodes.sim.tasks import CLEAR, SUBTASKS
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.shards import ShardWriter
from vla_training.data.writing.video_settings import VideoSettings

SCHEMA = DatasetSchema(
    robot="sim_arm",
    fps=FPS,
    state_names=tuple(f"{joint}.position" for joint in JOINTS),
    action_names=JOINTS,
    cameras={"front": (IMAGE, IMAGE), "wrist": (IMAGE, IMAGE)},
)
VIDEO = VideoSettings("h264", 18, "ultrafast", 2)
REPLAN = 4  # steps
COLOURS = ("red", "green", "blue", "yellow")


def demonstration(env: gymnasium.Env, seed: int, task: str, colours: tuple[str, ...]) -> Iterator:
    """(pictures, state, action, subtask) of each frame of an episode."""
    options = {"task": task, "colours": colours, "distractors": seed % 2}
    observation, _ = env.reset(seed=seed, options=options)
    expert, done, step = ScriptedExpert(), False, 0
    while not done:
        if step % REPLAN == 0:
            scene = env.unwrapped.arm.scene_vector()
            chunk, subtask = expert.plan(observation["state"], scene, task)
        action = chunk[step % REPLAN]
        pictures = {camera: observation[camera] for camera in SCHEMA.cameras}
        yield pictures, observation["state"], action, subtask
        observation, _, done, late, _ = env.step(action)
        assert not late
        step += 1


def make_arm_dataset(root: Path, episodes: int = 8) -> Path:
    """Writes a dataset of the simulated arm: one cube an episode, named by the task or not."""
    env = gymnasium.make("vla_nodes/TabletopArm-v0")
    shards = []
    for episode in range(episodes):
        colour = episode % len(COLOURS)
        task = SUBTASKS[colour] if episode % 2 else CLEAR
        folder = root.with_name(f"{root.name}-shard-{episode}")
        with ShardWriter(folder, SCHEMA, VIDEO, 150) as shard:
            frames = demonstration(env, 100 + episode, task, (COLOURS[colour],))
            for k, (pictures, state, action, subtask) in enumerate(frames):
                time = 1_750_000_000_000_000_000 + k * round(1e9 / FPS)
                shard.add(pictures, np.asarray(state), np.asarray(action), time, subtask)
            shard.finish(task, Outcome.SUCCESS, {"seed": 100 + episode})
        shards.append(folder)
    env.close()
    write_dataset(root, shards, SCHEMA, VIDEO, {"made": "by the scripted expert"})
    return root
