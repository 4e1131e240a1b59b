# SPDX-License-Identifier: Apache-2.0
"""One episode from bag to shards, in whichever process an executor has for it."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import read_bags
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.conversion.parts import Parts
from vla_training.data.conversion.report import EpisodeReport
from vla_training.data.conversion.staging import RESULT
from vla_training.data.conversion.texts import Texts, read_texts
from vla_training.data.files import write_whole
from vla_training.data.frames.frames import Frame, FrameSource
from vla_training.data.frames.stream_statistics import StreamStatistics
from vla_training.data.frames.topics import topics_of


def convert_episode(
    job: EpisodeJob,
    contract: Contract,
    settings: Settings,
    folder: Path,
    progress: Callable[[int], None],
) -> EpisodeReport:
    """Makes the shards of one episode out of its bags.

    Args:
        job: The episode.
        contract: That its bags keep to.
        settings: Of the dataset.
        folder: For the shards, ``part-000`` and so on, and at the very end ``result.json``: a
            folder without it is not finished, and is made anew.
        progress: Called with the times of the grid so far.

    Raises:
        BagError: The bag does not give what is asked for.
        DataError: The shards cannot be written.
    """
    began = time.perf_counter()
    cv2.setNumThreads(1)  # there are as many processes as processors
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    clock = _StageClock()
    with read_bags(job.bags) as bag:
        subtasks = Texts()
        if job.subtask_topic is not None:
            subtasks = read_texts(bag, job.subtask_topic, stamped=True, stop=job.stop)
        start = bag.start if job.start is None else max(bag.start, job.start)
        stop = bag.end if job.stop is None else min(bag.end, job.stop)
        seconds = max(0, stop - start) * 1e-9
        statistics = StreamStatistics(contract, settings.fps)
        source = FrameSource(contract, settings.fps, round(settings.phase * 1e9))
        messages = clock.each("reading", bag.messages(topics_of(contract), job.start, job.stop))
        expected = round(seconds * settings.fps)
        with Parts(job, contract, settings, folder, subtasks, bag.start, expected) as parts:
            items = clock.each("frames", source.frames(statistics.watch(messages)))
            for count, item in enumerate(items, start=1):
                if isinstance(item, Frame):
                    statistics.add(item)
                with clock.stage("encoding"):
                    parts.add(item)
                progress(count)
            with clock.stage("encoding"):
                parts.end()
        report = EpisodeReport(
            index=job.index,
            bag=str(job.bags[0]),
            start_s=(start - bag.start) * 1e-9,
            recorded_s=seconds,
            task=job.task,
            outcome=job.outcome.name.lower(),
            parts=parts.kept,
            short_parts=parts.short,
            gaps=parts.gaps,
            lead=source.lead,
            tail=source.tail,
            refusal=source.refusal if source.lead or not (parts.kept or parts.short) else "",
            ending=source.ending,
            faults=source.faults(),
            notes=list(bag.notes),
            seconds=clock.seconds(time.perf_counter() - began),
            **statistics.report(),
        )
    write_whole(folder / RESULT, asdict(report))
    return report


class _StageClock:
    """Seconds spent in each stage of the work."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what is done in the block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begin

    def each[T](self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Counts what it takes to get the items."""
        iterator = iter(items)
        while True:
            begin = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds[name] += time.perf_counter() - begin
            yield item

    def seconds(self, total: float) -> dict[str, float]:
        """By stage; reading is not counted again as a part of making frames."""
        reading, frames = self._seconds["reading"], self._seconds["frames"]
        seconds = {**self._seconds, "frames": frames - reading, "all": total}
        return {name: round(value, 3) for name, value in seconds.items()}
