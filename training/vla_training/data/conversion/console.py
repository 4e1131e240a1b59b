# SPDX-License-Identifier: Apache-2.0
"""What ``vla-convert`` shows: a plan, the progress, a summary."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vla_training.data.conversion.plan import BagPlan
from vla_training.data.conversion.report import EpisodeReport


def several(lines: Sequence[str], what: str) -> str:
    """An error about several things."""
    return "\n  ".join([f"{what}:", *lines]) if lines else what


class Progress:
    """Tells on stderr how far a conversion is: a bar on a terminal, otherwise a line per episode.

    Args:
        episodes: To convert.
        frames: About how many there will be.
    """

    def __init__(self, episodes: int, frames: int) -> None:
        self._episodes = episodes
        self._ended = 0
        self._frames = 0
        self._bar = tqdm(total=frames, unit="frame", disable=not sys.stderr.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, running: int) -> None:
        """Shows the frames of ended episodes and those so far of running ones."""
        self._bar.total = max(self._bar.total, self._frames + running)
        self._bar.update(self._frames + running - self._bar.n)

    def done(self, report: EpisodeReport) -> None:
        """An episode has ended."""
        frames = report.frames["count"]
        self._frames += frames
        self._end(f"{report.bag} at {report.start_s:.3f} s: {frames} frames")

    def failed(self, error: str) -> None:
        """An episode cannot be converted."""
        self._end(error)

    @contextmanager
    def writing(self, episodes: int) -> Iterator[Callable[[int], None]]:
        """The dataset is written; gives what is to be told the number of episodes in it."""
        self._bar.close()
        with tqdm(total=episodes, unit="episode", disable=self._bar.disable) as bar:
            yield lambda count: bar.update(count - bar.n)

    def _end(self, text: str) -> None:
        self._ended += 1
        if self._bar.disable:
            print(f"{self._ended} of {self._episodes}: {text}", file=sys.stderr)


def print_plans(plans: Sequence[BagPlan], fps: int) -> None:
    """Shows what would be converted, and what stands in the way."""
    episodes = Table("episode", "bag", "from s", "to s", "frames", "task", "outcome")
    places = [(plan, job) for plan in plans for job in plan.jobs if not plan.problems]
    for index, (plan, job) in enumerate(places):
        start, stop = plan.seconds(job)
        row = (start, stop, (stop - start) * fps)
        numbers = (f"{row[0]:.3f}", f"{row[1]:.3f}", f"{row[2]:.0f}")
        episodes.add_row(str(index), str(plan.path), *numbers, job.task, job.outcome.name.lower())
    streams = Table("topic", "bags without it", "messages", "Hz")
    seconds = sum((plan.end - plan.start) * 1e-9 for plan in plans)
    for topic in sorted({topic for plan in plans for topic in plan.streams}):
        counts = [plan.streams.get(topic) for plan in plans]
        total = sum(filter(None, counts))
        rate = f"{total / seconds:.1f}" if seconds else ""
        streams.add_row(topic, str(counts.count(None)), str(total), rate)
    console = _console()
    console.print(episodes, streams)
    for plan in plans:
        for note in plan.notes:
            console.print(f"note: {plan.path}: {note}", soft_wrap=True)
    for problem in (problem for plan in plans for problem in plan.problems):
        console.print(f"problem: {problem}", soft_wrap=True)


def print_summary(summary: Mapping[str, Any]) -> None:
    """Shows what ``report.summary`` gives."""
    totals = summary["totals"]
    console = _console()
    facts = Table(show_header=False)
    for name, value in (
        ("episodes", f"{totals['episodes']}, from {totals['recordings']} recorded"),
        ("frames", f"{totals['frames']}, {100 * totals['coverage']:.1f} % of the recordings"),
        ("frames per second", f"{totals['effective_fps']:.2f} of {totals['fps']}"),
        ("lacking an input", f"{totals['frames_with_gaps']} frames"),
        ("before the first, after the last", f"{totals['lead']} samples, {totals['tail']} frames"),
        ("in parts too short", f"{totals['short_frames']} frames, {totals['short_parts']} parts"),
        ("size", f"{totals['bytes_in'] / 1e6:.1f} MB in, {totals['bytes_out'] / 1e6:.1f} MB out"),
        ("time", f"{totals['seconds']:.1f} s, {totals['images_per_s']:.0f} images/s"),
    ):
        facts.add_row(name, value)
    console.print(facts)
    if summary["gaps"]:
        gaps = Table("stream", "lacks", "frames", "first", "remedy")
        for gap in summary["gaps"]:
            gaps.add_row(
                gap["stream"], gap["reason"], str(gap["frames"]), gap["detail"], gap["hint"]
            )
        console.print(gaps)
    streams = Table("stream", "greatest skew ms", "greatest age ms", "repeated frames")
    for name, stream in summary["streams"].items():
        greatest = (f"{(stream[key] or {}).get('max', 0):.1f}" for key in ("skew_ms", "age_ms"))
        streams.add_row(name, *greatest, str(stream["repeats"]))
    console.print(streams)
    for text in (*summary["left_out"], *summary["notes"]):
        console.print(text, soft_wrap=True)


def _console() -> Console:
    # Paths and texts from outside are no markup; in a file, lines need not be short.
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, markup=False, highlight=False)
