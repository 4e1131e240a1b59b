# SPDX-License-Identifier: Apache-2.0
"""Run folders to shards, in threads: decoding and encoding release the interpreter's lock."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import cv2
from tqdm import tqdm

from vla_training.data.errors import DataError
from vla_training.data.frames.frames import grid_offset
from vla_training.data.runs.run_folders import Run
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.shards import ShardWriter, read_shard
from vla_training.data.writing.video_settings import VideoSettings


def make_shards(
    runs: Sequence[Run],
    schema: DatasetSchema,
    video: VideoSettings,
    outcome: Outcome,
    folder: Path,
    workers: int | None,
) -> list[Path]:
    """Makes a shard of each run, side by side.

    Args:
        runs: In the order of the dataset.
        schema: That all of them fit.
        video: How to encode.
        outcome: How the runs ended.
        folder: To hold the shards; those that an interrupted import left there are kept where
            their run has not changed.
        workers: Runs at a time; None for one per CPU.

    Returns:
        The shards, in order.

    Raises:
        DataError: A file cannot be read or holds what does not belong into a dataset.
    """
    cv2.setNumThreads(1)  # there is a thread for each CPU already
    count = workers or len(os.sched_getaffinity(0))
    stop = Event()
    with ThreadPoolExecutor(min(count, len(runs))) as pool:
        shards = [folder / f"run-{index:06d}" for index in range(len(runs))]
        futures = [
            pool.submit(_make_shard, run, schema, video, outcome, shard, stop)
            for run, shard in zip(runs, shards, strict=True)
        ]
        try:
            for future in tqdm(futures, unit="run", disable=None):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return shards


def _make_shard(
    run: Run,
    schema: DatasetSchema,
    video: VideoSettings,
    outcome: Outcome,
    folder: Path,
    stop: Event,
) -> None:
    """Makes the shard of a run; frame k is dated k / fps, for such runs carry no time."""
    source = _source(run)
    if folder.exists():
        shard = read_shard(folder)
        if (shard.task, shard.source) == (run.task, source):
            return
        shutil.rmtree(folder)
    with ShardWriter(folder, schema, video, run.length) as writer:
        for number, frame in enumerate(run.frames()):
            if stop.is_set():
                return
            time = grid_offset(number, schema.fps)
            try:
                writer.add(frame.pictures, frame.state, frame.action, time, run.subtask)
            except DataError as error:
                raise DataError(f"run {run.name}: {error}") from error
        writer.finish(run.task, outcome, source)


def _source(run: Run) -> dict[str, Any]:
    """Where an episode is from, and what tells whether that has changed."""
    digest = hashlib.sha256()
    for paths in run.files().values():
        for path in paths:
            state = path.stat()
            # Names too: pictures that are renamed keep size and time, and change their order.
            name = os.fsencode(path.relative_to(run.root))
            digest.update(b"%s %d %d\n" % (name, state.st_size, state.st_mtime_ns))
    return {"run": run.name, "subtask": run.subtask, "files": digest.hexdigest()}
