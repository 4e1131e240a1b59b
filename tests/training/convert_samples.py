# SPDX-License-Identifier: Apache-2.0
"""Recordings for vla-convert, and what a dataset of one of them must hold, by brute force."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from bag_samples import (
    EPOCH,
    SECOND,
    STORE,
    Message,
    Recording,
    sample_contract,
    sample_messages,
    stamp_of,
    string,
)

from vla_training.data.bags.bag import open_bag
from vla_training.data.conversion.convert import main
from vla_training.data.conversion.convert_episode import convert_episode
from vla_training.data.conversion.episodes import Choices, episodes_of, parse_split
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.schema import Outcome
from vla_training.data.writing.shards import read_shard

TASK = {"task": "stack the cups", "outcome": "success"}
H264 = ["--vcodec", "h264", "--preset", "ultrafast", "--workers", "1"]


def joints(seconds=3.0, **changes):
    """Messages of a recording without cameras."""
    return sample_messages(Recording(seconds=seconds, cameras=False, **changes))


def at(seconds, topic, text):
    """A text that was received so long after the first message."""
    return Message(EPOCH + round(seconds * SECOND), topic, "std_msgs/msg/String", string(text))


def level(seconds, topic, value):
    message = STORE.types["std_msgs/msg/Bool"](data=value)
    return Message(EPOCH + round(seconds * SECOND), topic, "std_msgs/msg/Bool", message)


def merged(*groups):
    return sorted((m for group in groups for m in group), key=lambda m: m.receive)


def jobs_of(path, split="file", contract=None, **choices):
    """Episodes of a bag as (start, stop) in seconds after EPOCH, and all else that is known."""
    contract = contract or sample_contract(path.parent, cameras=False)
    with open_bag(path) as bag:
        return episodes_of(bag, contract, Choices(parse_split(split, [path]), **choices))


def spans(jobs):
    return [tuple((t - EPOCH) / SECOND if t else None for t in (j.start, j.stop)) for j in jobs]


def shards_of(path, contract, folder, settings=None, **job):
    """Shards of one episode, and the report."""
    values = {"start": None, "stop": None, "task": "t", "outcome": Outcome.UNKNOWN, **job}
    settings = settings or Settings(fps=10)
    report = convert_episode(
        EpisodeJob(0, (path,), **values), contract, settings, folder, lambda _: None
    )
    return [read_shard(part) for part in sorted(folder.glob("part-*"))], report


def cli(folder: Path, *bags: str, out: str = "dataset", **options) -> int:
    """Runs the command on bags of a folder, with its contract."""
    words = [str(folder / bag) for bag in bags]
    words += ["--contract", str(folder / "sample_arm.yaml"), "--out", str(folder / out), *H264]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return main(words)


class Truth:
    """What the frames of a recording of the sample arm are, message by message.

    Args:
        messages: Without gaps; joint names in any order.
        fps: Of the dataset.
        sample: ``frame`` or ``next``.
        reference: Topic of the reference.
    """

    def __init__(self, messages, fps=10, sample="frame", reference="/front/image"):
        self.series = {}
        for message in messages:
            self.series.setdefault(message.topic, []).append((stamp_of(message), message.value))
        for series in self.series.values():
            series.sort(key=lambda entry: entry[0])
        later = int(sample == "next")
        self.times = []
        for start, _ in self.series[reference]:
            if self.complete(start, start + SECOND // fps * later):
                break
        while True:
            here, there = (
                start + int(Fraction((len(self.times) + k) * SECOND, fps) + Fraction(1, 2))
                for k in (0, later)
            )
            if not self.complete(here, there):
                break
            self.times.append(here)
        action_times = [*self.times, here][later:][: len(self.times)]
        self.states = [self.position("/joint_states", t) for t in self.times]
        self.actions = [self.position("/leader/joint_states", t) for t in action_times]

    def complete(self, here, there):
        return all(
            any(stamp <= t for stamp, _ in self.series[topic])
            and (
                topic.endswith(("image", "compressed"))
                or any(s >= t for s, _ in self.series[topic])
            )
            for topic in self.series
            for t in [there if topic == "/leader/joint_states" else here]
        )

    def position(self, topic, time):
        """Joints pan, lift and grip, on the line between the messages around a time."""
        series = self.series[topic]
        before = [entry for entry in series if entry[0] <= time][-1]
        after = next(entry for entry in series if entry[0] >= time)
        low, high = (
            np.array([m.position[list(m.name).index(j)] for j in ("pan", "lift", "grip")])
            for _, m in (before, after)
        )
        if before[0] == after[0]:
            return low
        return low + (high - low) * ((time - before[0]) / (after[0] - before[0]))

    def shown(self, topic, time):
        """Stamp of the newest picture that is not after a time."""
        return max(stamp for stamp, _ in self.series[topic] if stamp <= time)
