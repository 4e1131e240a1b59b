# SPDX-License-Identifier: Apache-2.0
"""Which episodes a conversion will make, known before anything is converted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from vla_nodes.contract import contract_digest
from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import Bag, open_bag
from vla_training.data.conversion.episodes import Choices, episodes_of
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.errors import DataError
from vla_training.data.frames.topics import check_topics, topics_of

_LIBRARIES = ("vla-nodes", "vla-training", "lerobot", "av", "numpy", "rosbags", "mcap")


@dataclass(frozen=True)
class BagPlan:
    """What will become of one bag.

    Attributes:
        path: Of the bag.
        start: Time of receipt of its first message, ns.
        end: One past that of its last.
        streams: Messages by topic of the contract; None of a topic that is not there.
        jobs: Its episodes.
        problems: Why it cannot be converted; empty for a good one.
        notes: What else is worth saying.
    """

    path: Path
    start: int = 0
    end: int = 0
    streams: Mapping[str, int | None] = field(default_factory=dict)
    jobs: tuple[EpisodeJob, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def seconds(self, job: EpisodeJob) -> tuple[float, float]:
        """Where an episode begins and ends, from the start of the bag."""
        start = self.start if job.start is None else max(job.start, self.start)
        stop = self.end if job.stop is None else min(job.stop, self.end)
        return (start - self.start) * 1e-9, (stop - self.start) * 1e-9


def plan_bags(bags: Sequence[Path], contract: Contract, choices: Choices) -> list[BagPlan]:
    """Looks into each bag; a bag that cannot be converted is told by its ``problems``."""
    plans = []
    for path in bags:
        try:
            with open_bag(path) as bag:
                plans.append(_plan(bag, contract, choices))
        except DataError as error:
            plans.append(BagPlan(path, problems=(str(error),)))
    return plans


def jobs_of(plans: Sequence[BagPlan]) -> list[EpisodeJob]:
    """The episodes of the bags that have no problem, numbered in the order of the dataset."""
    jobs = [job for plan in plans if not plan.problems for job in plan.jobs]
    return [replace(job, index=index) for index, job in enumerate(jobs)]


def source_files(jobs: Sequence[EpisodeJob]) -> list[Path]:
    """Every file of their bags but hidden ones, among them an unfinished dataset's."""
    files: list[Path] = []
    for bag in dict.fromkeys(bag for job in jobs for bag in job.bags):
        inside = [] if bag.is_file() else sorted(bag.rglob("*"))
        files += [bag, *(file for file in inside if not _is_hidden(file.relative_to(bag)))]
    return [file for file in files if file.is_file()]


def fingerprint(
    jobs: Sequence[EpisodeJob], contract: Contract, settings: Settings
) -> dict[str, Any]:
    """All that shapes a dataset, as JSON, for a resumed conversion to be compared with."""
    sources = {str(file.resolve()): file.stat() for file in source_files(jobs)}
    return {
        "contract": contract_digest(contract),
        "settings": asdict(settings),
        "versions": {name: version(name) for name in _LIBRARIES} | {"cv2": cv2.__version__},
        "episodes": [
            {**asdict(job), "bags": [str(bag.resolve()) for bag in job.bags]} for job in jobs
        ],
        "sources": {
            name: {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            for name, stat in sources.items()
        },
    }


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _plan(bag: Bag, contract: Contract, choices: Choices) -> BagPlan:
    problems: list[str] = []
    jobs: list[EpisodeJob] = []
    notes: list[str] = []
    try:
        check_topics(contract, bag.topics)
    except DataError as error:
        # A topic may lack because the bag was cut short, which its notes say.
        problems.append("; ".join([f"{bag.path}: {error}", *bag.notes]))
    try:
        jobs, notes = episodes_of(bag, contract, choices)
    except DataError as error:
        problems.append(str(error))
    if bag.custom.get("contract_digest", contract_digest(contract)) != contract_digest(contract):
        notes.append("it was recorded by another contract")
    topics = sorted(topics_of(contract))
    return BagPlan(
        path=bag.path,
        start=bag.start,
        end=bag.end,
        streams={t: bag.topics[t].count if t in bag.topics else None for t in topics},
        jobs=tuple(jobs),
        problems=tuple(problems),
        notes=(*bag.notes, *notes),
    )
