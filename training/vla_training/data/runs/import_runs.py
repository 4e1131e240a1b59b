# SPDX-License-Identifier: Apache-2.0
"""``vla-import-runs``: folders of JPEGs and arrays to a LeRobot v3 dataset."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.contract import Contract, ContractError, contract_digest, load_contract
from vla_training.data.conversion.staging import (
    clear_staging,
    staging,
    staging_folder,
    was_made_with,
)
from vla_training.data.errors import DataError
from vla_training.data.runs.instructions import read_instructions
from vla_training.data.runs.run_folders import Run, find_runs
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.video_settings import VideoSettings


@dataclass(frozen=True)
class Arguments:
    """Make a LeRobot v3 dataset of run folders: TASK/SUBTASK/run_NNN or stageN/run_NNN."""

    root: Annotated[Path, tyro.conf.Positional]
    """Holds the folders of tasks or stages."""
    instructions: Path
    """JSON that says what they are about."""
    fps: int
    """Frames per second that the runs were recorded with."""
    out: Path
    """Folder of the dataset; must not exist."""
    contract: Path | None = None
    """The robot's contract: names, and sizes to check. Default: joint_0, joint_1 and so on."""
    outcome: Literal["success", "failure", "unknown"] = "unknown"
    """How the runs ended."""
    vcodec: str = "libsvtav1"
    """Of the videos: libsvtav1, h264, or another that LeRobot knows."""
    crf: int | None = 30
    """Quality of the videos; lower is better and larger."""
    preset: str | None = None
    """Speed of the encoder against size, in the codec's own terms: 12, veryfast."""
    workers: int | None = None
    """Runs imported side by side. Default: one per CPU."""
    resume: bool = False
    """Go on with an import that was interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    config = (tyro.conf.FlagCreatePairsOff,)
    arguments = tyro.cli(Arguments, prog="vla-import-runs", args=argv, config=config)
    try:
        _run(arguments)
    except (DataError, ContractError, OSError) as error:
        print(f"vla-import-runs: {_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-import-runs: interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def _run(arguments: Arguments) -> None:
    out = arguments.out
    if out.exists() and not (arguments.resume and staging_folder(out).exists()):
        raise DataError(f"{out} exists already; give another folder")
    if arguments.workers is not None and arguments.workers < 1:
        raise DataError(f"--workers is {arguments.workers}, expected 1 or more")
    if not arguments.root.is_dir():
        raise DataError(f"{arguments.root} is no folder")
    runs, others = find_runs(arguments.root, read_instructions(arguments.instructions))
    contract = load_contract(arguments.contract) if arguments.contract else None
    schema = _schema(runs[0], contract, arguments.fps)
    video = VideoSettings.of_options(arguments.vcodec, arguments.crf, arguments.preset)
    if others:
        listed = ", ".join(others[:10]) + ", ..." * (len(others) > 10)
        print(f"left out, being no runs: {_line(listed)}")
    # LeRobot takes seconds to import, which a refusal need not wait for.
    from vla_training.data.runs.run_shards import make_shards
    from vla_training.data.writing.dataset_writer import write_dataset
    from vla_training.data.writing.encoder import check_video

    check_video(video, schema)
    settings = {"fps": schema.fps, "video": asdict(video), "outcome": arguments.outcome}
    about = {
        "made_by": "vla-import-runs",
        "contract_digest": contract_digest(contract) if contract else None,
        "settings": settings,
    }
    with staging(out, {**about, "schema": asdict(schema)}, arguments.resume) as folder:
        # Here an interrupted import may just have finished.
        if not was_made_with(out, about):
            outcome = Outcome[arguments.outcome.upper()]
            shards = make_shards(runs, schema, video, outcome, folder, arguments.workers)
            write_dataset(out, shards, schema, video, about)
        clear_staging(folder)
    frames = sum(run.length for run in runs)
    print(f"{out}: {len(runs)} episodes, {frames} frames at {arguments.fps} Hz")


def _schema(run: Run, contract: Contract | None, fps: int) -> DatasetSchema:
    """Of the dataset; runs agree in what it takes."""
    if fps < 1:
        raise DataError(f"--fps is {fps}, expected 1 or more")
    found = DatasetSchema(
        robot="unknown",
        fps=fps,
        state_names=tuple(f"joint_{i}" for i in range(run.state_size)),
        action_names=tuple(f"joint_{i}" for i in range(run.action_size)),
        cameras=run.sizes,
    )
    if contract is None:
        return found
    schema = DatasetSchema.of(contract, fps)
    for what, expected, there in (
        ("frames per second", contract.fps, fps),
        ("values in qpos.npy", len(schema.state_names), run.state_size),
        ("values in actions.npy", len(schema.action_names), run.action_size),
        ("cameras of (height, width)", dict(schema.cameras), dict(run.sizes)),
    ):
        if expected != there:
            raise DataError(f"{what}: {expected} by the contract, {there} in run {run.name}")
    return schema


def _line(text: str) -> str:
    """A text on one line, for names of files hold what they like."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
