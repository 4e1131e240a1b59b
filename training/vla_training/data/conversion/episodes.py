# SPDX-License-Identifier: Apache-2.0
"""Where episodes begin and end in a recording, and what each of them is about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import Bag, BagError
from vla_training.data.bags.errors import shown
from vla_training.data.conversion.job import EpisodeJob
from vla_training.data.conversion.ranges import Range, read_ranges
from vla_training.data.conversion.texts import (
    DISCARD,
    Texts,
    check_outcome,
    check_text,
    check_text_topic,
    has_texts,
    read_texts,
)
from vla_training.data.errors import DataError
from vla_training.data.frames.topics import reference_topic
from vla_training.data.schema import Outcome
from vla_training.data.stamps import SECOND

TASK_TOPIC = "/task"
SUBTASK_TOPIC = "/subtask"
_ENDINGS = {"stop": "", "succeeded": "success", "failed": "failure", DISCARD: DISCARD}


class Stretch(NamedTuple):
    """A part of a recording; times of receipt as in ``EpisodeJob``.

    ``task`` and ``outcome`` (``discard`` among them) are empty where this part says nothing.
    """

    start: int | None = None
    stop: int | None = None
    task: str = ""
    outcome: str = ""


class Stretches(NamedTuple):
    """The parts of one recording, and what is worth saying about how they were found."""

    parts: list[Stretch]
    notes: list[str]


Split = Callable[[Bag, Contract], Stretches]


@dataclass(frozen=True)
class Choices:
    """How a user wants episodes made.

    Attributes:
        split: Finds the episodes of a bag.
        task: Of every episode; None where the recording says.
        task_topic: Where the recording says; None for its custom data, then ``/task``.
        subtask_topic: None for ``/subtask`` where it is there.
        outcome: Of every episode that has none of its own; None where the custom data says.
    """

    split: Split
    task: str | None = None
    task_topic: str | None = None
    subtask_topic: str | None = None
    outcome: Outcome | None = None


def parse_split(text: str, bags: Sequence[Path]) -> Split:
    """Understands ``file``, ``topic:/NAME``, ``gap:SECONDS`` and ``ranges:FILE``.

    Raises:
        DataError: Something else, or a file of ranges that cannot be used.
    """
    kind, _, value = text.partition(":")
    if text == "file":
        return lambda *_: Stretches([Stretch()], [])
    if kind == "topic" and value.startswith("/"):
        return partial(_split_by_topic, topic=value)
    if kind == "gap" and (seconds := _positive(value)):
        return partial(_split_by_silence, silence=round(seconds * SECOND))
    if kind == "ranges" and value:
        return partial(_split_by_ranges, ranges=read_ranges(Path(value), bags))
    raise DataError(
        f"--episodes is {text[:80]!r}, expected file, topic:/NAME, gap:SECONDS or ranges:FILE.json"
    )


def episodes_of(
    bag: Bag, contract: Contract, choices: Choices
) -> tuple[list[EpisodeJob], list[str]]:
    """Makes the jobs of one bag.

    Returns:
        Jobs, all with index 0, and notes for the user.

    Raises:
        DataError: Nothing says the task of an episode, or what says it cannot be used.
    """
    parts, notes = choices.split(bag, contract)
    spoken = None if choices.task else _spoken_task(bag, choices)
    said = check_outcome(bag.custom.get("outcome", ""), f"{bag.path}: outcome of the custom data")
    default = said if choices.outcome is None else choices.outcome.name.lower()
    subtask_topic = choices.subtask_topic
    if subtask_topic is not None:
        check_text_topic(bag, subtask_topic)
    elif has_texts(bag, SUBTASK_TOPIC):
        subtask_topic = SUBTASK_TOPIC
    jobs = []
    for part in parts:
        outcome = said if said == DISCARD else part.outcome or default
        if outcome == DISCARD:
            notes.append(f"the episode at {_place(bag, part)} was discarded by its operator")
            continue
        task = part.task or choices.task or _task_of(bag, part, spoken)
        jobs.append(
            EpisodeJob(
                index=0,
                bags=(bag.path,),
                start=part.start,
                stop=part.stop,
                task=task,
                outcome=Outcome[outcome.upper()] if outcome else Outcome.UNKNOWN,
                subtask_topic=subtask_topic,
            )
        )
    unknown = dict.fromkeys(job.task for job in jobs if job.task not in contract.tasks)
    if contract.tasks:
        notes += [f"task '{task}' is not one of the contract's" for task in unknown]
    return jobs, notes


def _spoken_task(bag: Bag, choices: Choices) -> str | Texts:
    """What the recording says about its task; an empty text where it says nothing."""
    if choices.task_topic:
        return read_texts(bag, choices.task_topic, stamped=False)
    if custom := check_text(bag.custom.get("task", ""), f"{bag.path}: task of the custom data"):
        return custom
    return read_texts(bag, TASK_TOPIC, stamped=False) if has_texts(bag, TASK_TOPIC) else ""


def _task_of(bag: Bag, part: Stretch, spoken: str | Texts | None) -> str:
    if isinstance(spoken, Texts):
        start = bag.start if part.start is None else part.start
        spoken = spoken.longest(start, bag.end if part.stop is None else part.stop)
    if not spoken:
        raise BagError(
            f"{bag.path}: nothing says the task of the episode at {_place(bag, part)}; "
            "give --task TEXT or --task-topic /NAME"
        )
    return spoken


def _place(bag: Bag, part: Stretch) -> str:
    start = bag.start if part.start is None else max(part.start, bag.start)
    return f"{(start - bag.start) / SECOND:.3f} s"


def _split_by_topic(bag: Bag, contract: Contract, topic: str) -> Stretches:  # noqa: ARG001
    """From ``true`` to ``false`` of a Bool, or from ``start`` to another word of a String."""
    kind = bag.topics[topic].type if topic in bag.topics else "not in the bag"
    if kind not in {"std_msgs/msg/Bool", "std_msgs/msg/String"}:
        raise BagError(
            f"{bag.path}: {topic} is {shown(kind)}, "
            "expected std_msgs/msg/Bool or std_msgs/msg/String"
        )
    found = Stretches([], [])
    begun: int | None = None
    for receive, _, message in bag.messages([topic]):
        level = isinstance(message.data, bool | np.bool_)
        word = ("start" if message.data else "stop") if level else message.data.strip()
        if word == "start":
            if begun is not None and not level:
                at = f"{(begun - bag.start) / SECOND:.3f} s"
                found.notes.append(
                    f"the episode at {at} has no end before the next start: left out"
                )
            if begun is None or not level:
                begun = receive
        elif word not in _ENDINGS:
            expected = ", ".join(["start", *_ENDINGS])
            raise BagError(f"{bag.path}: {topic} says '{shown(word)}', expected one of {expected}")
        elif begun is not None:
            found.parts.append(Stretch(begun, receive, outcome=_ENDINGS[word]))
            begun = None
    if begun is not None:
        found.parts.append(Stretch(begun))
        found.notes.append("the last episode has no end: it goes on to the end of the bag")
    return found


def _split_by_silence(bag: Bag, contract: Contract, silence: int) -> Stretches:
    """Where the reference stream pauses; what the others say in a pause is shared by halves."""
    topic = reference_topic(contract)
    times = np.fromiter((s.receive for s in bag.messages([topic])), np.int64)
    if not len(times):
        return Stretches([], [f"{topic} is silent"])
    breaks = np.flatnonzero(np.diff(times) > silence)
    firsts, lasts = times[np.r_[0, breaks + 1]], times[np.r_[breaks, -1]]
    margin = silence // 2
    spans = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return Stretches([Stretch(first - margin, last + margin) for first, last in spans], [])


def _split_by_ranges(
    bag: Bag,
    contract: Contract,  # noqa: ARG001
    ranges: Mapping[Path, Sequence[Range]],
) -> Stretches:
    length = (bag.end - bag.start) / SECOND
    parts = []
    for where, start, stop, task, outcome in ranges.get(bag.path, ()):
        if max(start, stop or 0) > length + 1e-3:
            raise BagError(f"{where} ends after {bag.path} does, which is {length:.3f} s long")
        begin = bag.start + round(start * SECOND)
        end = None if stop is None else bag.start + round(stop * SECOND)
        parts.append(Stretch(begin, end, task, outcome))
    return Stretches(parts, [] if parts else ["no range names this bag"])


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None
