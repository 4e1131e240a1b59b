# SPDX-License-Identifier: Apache-2.0
"""Episodes to shards, in this process or side by side in several."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from vla_nodes.sim.arm import TabletopArm
from vla_training.data.demonstrations.course import Step, run_episode
from vla_training.data.demonstrations.episode_plan import Shares, plan_episode
from vla_training.data.demonstrations.noise import NoiseSettings
from vla_training.data.errors import DataError
from vla_training.data.frames.frames import grid_offset
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.shards import Shard, ShardWriter
from vla_training.data.writing.video_settings import VideoSettings


@dataclass(frozen=True)
class Job:
    """What all episodes of a dataset have in common.

    Attributes:
        seed: Of everything random.
        shares: How often what is drawn.
        noise: In the expert's motions.
        schema: Of the dataset.
        video: How to encode.
    """

    seed: int
    shares: Shares
    noise: NoiseSettings
    schema: DatasetSchema
    video: VideoSettings


def make_shards(job: Job, episodes: int, folder: Path, workers: int) -> Iterator[Shard]:
    """Make a shard of each episode, in order.

    Args:
        job: What to make.
        episodes: How many.
        folder: To hold the shards.
        workers: Processes side by side; 1 takes the present one.

    Raises:
        DataError: A shard cannot be written, or a process died.
    """
    if workers == 1:
        with closing(TabletopArm()) as arm:
            for index in range(episodes):
                yield _make_shard(arm, job, folder, index)
        return
    context = multiprocessing.get_context("spawn")  # a forked process cannot render
    with ProcessPoolExecutor(min(workers, episodes), context) as pool:
        try:
            yield from pool.map(partial(_make_shard_apart, job, folder), range(episodes))
        except BrokenProcessPool as error:
            raise DataError("a process that ran episodes died; is there memory for all?") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _make_shard(arm: TabletopArm, job: Job, folder: Path, index: int) -> Shard:
    plan = plan_episode(job.seed, index, job.shares)
    schema = job.schema
    expected = round(plan.limit * schema.fps)
    path = folder / f"episode-{index:06d}"
    with ShardWriter(path, schema, job.video, expected) as writer:
        frames = 0

        def record(step: Step) -> None:
            nonlocal frames
            time = grid_offset(frames, schema.fps)
            writer.add(step.pictures, step.state, step.action, time, step.subtask)
            frames += 1

        success = run_episode(arm, plan, job.noise, schema.cameras, schema.fps, record)
        source = {"seed": job.seed, "episode": index, "fault": plan.fault}
        return writer.finish(plan.task, Outcome.SUCCESS if success else Outcome.FAILURE, source)


def _make_shard_apart(job: Job, folder: Path, index: int) -> Shard:
    """As ``_make_shard``, in a process that keeps an arm of its own."""
    return _make_shard(_own_arm(), job, folder, index)


@cache
def _own_arm() -> TabletopArm:
    return TabletopArm()
