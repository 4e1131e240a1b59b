# SPDX-License-Identifier: Apache-2.0
"""``vla-convert``: recordings to a LeRobot v3 dataset."""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.contract import Contract, ContractError, load_contract
from vla_training.data.bags.bag import find_bags
from vla_training.data.conversion.console import Progress, print_plans, print_summary, several
from vla_training.data.conversion.episodes import Choices, parse_split
from vla_training.data.conversion.executor import Kind
from vla_training.data.conversion.job import OnGap, Settings
from vla_training.data.conversion.plan import jobs_of, plan_bags, source_files
from vla_training.data.conversion.report import summary
from vla_training.data.conversion.run import Execution, convert
from vla_training.data.conversion.staging import staging_folder
from vla_training.data.conversion.texts import check_text
from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.data.schema import Outcome
from vla_training.data.writing.video_settings import VideoSettings

_LARGEST = 8192  # pixels, as of the contract's pictures
_SIDE = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True)
class Arguments:
    """Make a LeRobot v3 dataset of recordings."""

    bags: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="BAG...")]
    """Folders of rosbag2, .mcap, .db3 or .bag files, folders that hold such, or patterns."""
    contract: Path
    """The robot's contract."""
    out: Path
    """Folder of the dataset; must not exist."""
    fps: float | None = None
    """Frames per second, a whole number. Default: the contract's."""
    vcodec: str = "libsvtav1"
    """Of the videos: libsvtav1, h264, or another that LeRobot knows."""
    crf: int | None = 30
    """Quality of the videos; lower is better and larger."""
    preset: str | None = None
    """Speed of the encoder against size, in the codec's own terms: 12, veryfast."""
    resize: str | None = None
    """Scale every picture to this size, WIDTHxHEIGHT. Default: as after the contract's crop."""
    episodes: str = "file"
    """What an episode is: file (one in each bag), topic:/NAME, gap:SECONDS or ranges:FILE.json."""
    task: str | None = None
    """In plain words. Default: what the bag says of itself, then its topic /task."""
    task_topic: str | None = None
    """Where the bag says it; std_msgs/msg/String or vla_interfaces/msg/Task."""
    subtask_topic: str | None = None
    """Likewise the subtask, or vla_interfaces/msg/Subtask. Default: /subtask where it is there."""
    outcome: Literal["success", "failure", "unknown"] | None = None
    """Of episodes whose end does not tell. Default: what the bag says of itself."""
    on_gap: OnGap = "cut"
    """Where a frame lacks an input: cut the episode in two, drop the frame, or fail."""
    min_length: float = 1.0
    """Seconds; shorter parts are left out."""
    phase: float = 0.0
    """Seconds by which frames come after the reference's stamps; a little over their jitter keeps
    every picture in a frame of its own."""
    workers: int | None = None
    """Episodes converted side by side. Default: one per CPU."""
    executor: Kind = "local"
    """Processes of this machine, or tasks of Ray."""
    skip_bad: bool = False
    """Leave out bags that cannot be converted, instead of stopping."""
    resume: bool = False
    """Go on with a conversion that was interrupted."""
    dry_run: bool = False
    """Say what would be converted, and convert nothing."""
    report: Path | None = None
    """Write figures about the streams and the work to this JSON file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments; those of the process where None.

    Returns:
        The exit code: 0, 1 for an error that was shown, 130 after Ctrl-C.
    """
    arguments = tyro.cli(
        Arguments, prog="vla-convert", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        return _run(arguments)
    except (DataError, ContractError, OSError) as error:
        print(f"vla-convert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-convert: interrupted; go on with --resume", file=sys.stderr)
        return 130


def _run(arguments: Arguments) -> int:
    began = time.perf_counter()
    out = arguments.out
    if (out.exists() or out.is_symlink()) and not (
        arguments.resume and staging_folder(out).exists()
    ):
        raise DataError(
            f"{out} exists already; give another folder (--resume goes on with a conversion that "
            "was interrupted)"
        )
    report = arguments.report
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise DataError(f"--report is {report}, expected a file in a folder that exists")
    contract = load_contract(arguments.contract)
    settings = _settings(arguments, contract)
    bags = find_bags(arguments.bags)
    plans = plan_bags(bags, contract, _choices(arguments, bags))
    problems = [problem for plan in plans for problem in plan.problems]
    if arguments.dry_run:
        print_plans(plans, settings.fps)
        return 1 if problems else 0
    if problems and not arguments.skip_bad:
        raise DataError(several(problems, "nothing is converted; mend this, or add --skip-bad"))
    jobs = jobs_of(plans)
    notes = [f"{plan.path}: {note}" for plan in plans for note in plan.notes]
    if not jobs:
        raise DataError(several(problems + notes, "there is no episode to convert"))
    execution = Execution(
        arguments.executor, arguments.workers, arguments.resume, arguments.skip_bad
    )
    good = [plan for plan in plans if not plan.problems]
    seconds = sum(stop - start for plan in good for start, stop in map(plan.seconds, plan.jobs))
    with Progress(len(jobs), round(seconds * settings.fps)) as progress:
        conversion = convert(jobs, contract, settings, out, execution, progress)
    if conversion is None:
        print(f"{out} was finished already")
        return 0
    figures = summary(conversion.reports, contract, settings, problems + conversion.failures, notes)
    elapsed = time.perf_counter() - began
    figures["totals"] |= {
        "bytes_in": sum(file.stat().st_size for file in source_files(jobs)),
        "bytes_out": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        "seconds": round(elapsed, 3),
        "images_per_s": round(figures["totals"]["images"] / elapsed, 1),
    }
    print_summary(figures)
    if report is not None:
        episodes = [asdict(episode) for episode in conversion.reports]
        write_whole(report, {**figures, "episodes": episodes})
    return 0


def _choices(arguments: Arguments, bags: Sequence[Path]) -> Choices:
    if arguments.task is not None and arguments.task_topic is not None:
        raise DataError("--task and --task-topic both say the task; give one of them")
    task = None if arguments.task is None else check_text(arguments.task, "--task")
    if task == "":
        raise DataError("--task is empty, expected a text")
    return Choices(
        split=parse_split(arguments.episodes, bags),
        task=task,
        task_topic=arguments.task_topic,
        subtask_topic=arguments.subtask_topic,
        outcome=arguments.outcome and Outcome[arguments.outcome.upper()],
    )


def _settings(arguments: Arguments, contract: Contract) -> Settings:
    fps = contract.fps if arguments.fps is None else arguments.fps
    if not (1 <= fps <= 1000 and fps == round(fps)):
        near = round(min(max(fps, 1), 1000)) if fps == fps else 30
        raise DataError(f"fps is {fps:g}, LeRobot takes whole numbers; give --fps {near}, say")
    if arguments.workers is not None and arguments.workers < 1:
        raise DataError(f"--workers is {arguments.workers}, expected 1 or more")
    if not 0 <= arguments.min_length < 1e6:
        raise DataError(f"--min-length is {arguments.min_length:g} s, expected 0 or more")
    if not 0 <= arguments.phase < 1 / fps:
        raise DataError(
            f"--phase is {arguments.phase:g} s, expected 0 to {1 / fps:g}, the time between frames"
        )
    return Settings(
        fps=round(fps),
        video=VideoSettings.of_options(arguments.vcodec, arguments.crf, arguments.preset),
        resize=_size(arguments.resize) if arguments.resize else None,
        on_gap=arguments.on_gap,
        min_length=arguments.min_length,
        phase=arguments.phase,
    )


def _size(text: str) -> tuple[int, int]:
    """Width and height out of ``640x480``."""
    width, _, height = text.lower().partition("x")
    if not all(_SIDE.fullmatch(side) and 1 <= int(side) <= _LARGEST for side in (width, height)):
        raise DataError(
            f"--resize is {text[:40]!r}, expected WIDTHxHEIGHT such as 640x480, up to {_LARGEST}"
        )
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
