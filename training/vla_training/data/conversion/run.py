# SPDX-License-Identifier: Apache-2.0
"""From planned episodes to a dataset, through shards that another run can go on with."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_nodes.contract import Contract, contract_digest
from vla_training.data.conversion.console import Progress, several
from vla_training.data.conversion.executor import Kind, Pool, executor, run_all
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.conversion.plan import fingerprint
from vla_training.data.conversion.report import EpisodeReport, why_empty
from vla_training.data.conversion.staging import RESULT, clear_staging, staging, was_made_with
from vla_training.data.conversion.work import (
    PROGRESS,
    Failed,
    check_settings,
    make_dataset,
    make_shards,
    noted,
)
from vla_training.data.errors import DataError
from vla_training.data.schema import DatasetSchema

LOG = "workers.log"


@dataclass(frozen=True)
class Execution:
    """How the work is done, which does not shape the dataset.

    Attributes:
        kind: Of the executor.
        workers: Episodes side by side; None for one per CPU.
        resume: Go on with a conversion that was interrupted.
        skip_bad: Leave out episodes that their bags do not give.
    """

    kind: Kind = "local"
    workers: int | None = None
    resume: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to.

    Attributes:
        reports: Of the episodes, in order.
        failures: Why some were left out.
    """

    reports: list[EpisodeReport]
    failures: list[str]

    @property
    def empty(self) -> list[str]:
        """Why other episodes gave nothing."""
        return [why_empty(report) for report in self.reports if not report.parts]


def convert(
    jobs: Sequence[EpisodeJob],
    contract: Contract,
    settings: Settings,
    out: Path,
    execution: Execution,
    progress: Progress,
) -> Conversion | None:
    """Makes a dataset.

    Args:
        jobs: Numbered in the order of the dataset.
        contract: That the recordings keep to.
        settings: Of the dataset.
        out: Its folder; must not exist.
        execution: How to work.
        progress: Is told about it.

    Returns:
        What became of each episode; None where an interrupted run had just finished.

    Raises:
        DataError: Nothing was converted, or not everything and that is not to be; an encoder, a
            process or the disk failed; the folder cannot be used.
    """
    schema = DatasetSchema.of(contract, settings.fps, settings.resize)
    about = {
        "made_by": "vla-convert",
        "contract_digest": contract_digest(contract),
        "settings": json.loads(json.dumps(asdict(settings))),
    }
    with staging(out, fingerprint(jobs, contract, settings), execution.resume) as folder:
        if out.exists():
            if not was_made_with(out, about):
                raise DataError(f"{out} exists already; give another folder")
            clear_staging(folder)
            return None
        try:
            with executor(execution.kind, execution.workers, len(jobs), folder / LOG) as pool:
                _run_alone(pool, "tried the encoder", check_settings, settings.video, schema)
                made = _make_shards(pool, jobs, contract, settings, folder, progress)
                shards = _usable(made, folder, execution.skip_bad)
                note = folder / PROGRESS
                dataset = (out.absolute(), shards, schema, settings.video, about, note)
                with progress.writing(len(shards)) as show:
                    _run_alone(
                        pool, f"wrote {out}", make_dataset, *dataset, look=lambda: show(noted(note))
                    )
        except DataError:
            # Where there is nothing to go on with, nothing is to be in the way of another try.
            if not any(folder.glob("episode-*/part-???")):
                clear_staging(folder)
            raise
        clear_staging(folder)
    return made


def _usable(made: Conversion, folder: Path, skip_bad: bool) -> list[Path]:
    """The shards of a dataset.

    Raises:
        DataError: There are none, or some are missing and that is not to be.
    """
    if made.failures and not skip_bad:
        advice = "mend them, or add --resume --skip-bad to leave them out"
        raise DataError(several(made.failures, f"some episodes are bad; {advice}"))
    shards = [
        _folder(folder, report.index) / f"part-{part:03d}"
        for report in made.reports
        for part in range(len(report.parts))
    ]
    if not shards:
        raise DataError(several(made.failures + made.empty, "no episode gave any frames"))
    return shards


def _make_shards(
    pool: Pool,
    jobs: Sequence[EpisodeJob],
    contract: Contract,
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> Conversion:
    """Converts what an earlier run has not."""
    reports: dict[int, EpisodeReport] = {}
    failures: dict[int, str] = {}
    for job in jobs:
        if (file := _folder(folder, job.index) / RESULT).exists():
            reports[job.index] = EpisodeReport(**json.loads(file.read_text(encoding="utf-8")))
            progress.done(reports[job.index])

    def submit(job: EpisodeJob) -> "Future[EpisodeReport | Failed]":
        return pool.submit(make_shards, job, contract, settings, _folder(folder, job.index))

    def look(running: Sequence[EpisodeJob]) -> None:
        progress.show(sum(noted(_folder(folder, job.index) / PROGRESS) for job in running))

    def doing(job: EpisodeJob) -> str:
        return f"converted {job.bags[0]} (episode {job.index})"

    pending = [job for job in jobs if job.index not in reports]
    for job, result in run_all(pending, submit, pool.width, doing, look):
        if isinstance(result, Failed):
            failures[job.index] = result.error
            progress.failed(result.error)
        else:
            reports[job.index] = result
            progress.done(result)
    return Conversion(
        [reports[index] for index in sorted(reports)], [failures[i] for i in sorted(failures)]
    )


def _run_alone(
    pool: Pool,
    doing: str,
    function: Callable[..., None],
    *arguments: Any,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Runs one call in a process of the pool."""

    def submit(_: None) -> "Future[None]":
        return pool.submit(function, *arguments)

    for _ in run_all([None], submit, 1, lambda _: doing, lambda _: look()):
        pass


def _folder(staging: Path, index: int) -> Path:
    """Where an episode's shards are; absolute, since other processes have other folders."""
    return staging.absolute() / f"episode-{index:06d}"
