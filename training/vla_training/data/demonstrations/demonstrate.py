# SPDX-License-Identifier: Apache-2.0
"""``vla-demonstrate``: the scripted expert on the simulated arm, to a LeRobot v3 dataset."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import tyro
from tqdm import tqdm

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import ContractError, contract_digest, load_contract
from vla_training.data.demonstrations.episode_plan import Shares
from vla_training.data.demonstrations.noise import NoiseSettings
from vla_training.data.errors import DataError
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.video_settings import VideoSettings

if TYPE_CHECKING:
    from vla_training.data.writing.shards import Shard

_UNNAMED = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Arguments:
    """Record demonstrations of the simulated arm: successes, and failures of several kinds.

    The actions are what the expert means to do, without the noise and the faults that the arm
    is made to suffer.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset; must not exist."""
    episodes: int
    """How many."""
    seed: int = 0
    """Of everything random: episode i depends on the seed, i and the options below."""
    shares: Annotated[Shares, _UNNAMED] = field(default_factory=Shares)
    noise: Annotated[NoiseSettings, _UNNAMED] = field(default_factory=NoiseSettings)
    vcodec: str = "libsvtav1"
    """Of the videos: libsvtav1, h264, or another that LeRobot knows."""
    crf: int | None = 30
    """Quality of the videos; lower is better and larger."""
    preset: str | None = None
    """Speed of the encoder against size, in the codec's own terms: 12, veryfast."""
    workers: int = 1
    """Processes that run episodes side by side; the dataset is the same for any number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        arguments = tyro.cli(
            Arguments, prog="vla-demonstrate", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        _run(arguments)
    except (DataError, ContractError, OSError) as error:
        print(f"vla-demonstrate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-demonstrate: interrupted; nothing was kept", file=sys.stderr)
        return 130
    return 0


def _run(arguments: Arguments) -> None:
    out = arguments.out
    if out.exists():
        raise DataError(f"{out} exists already; give another folder")
    for option in ("episodes", "workers"):
        if getattr(arguments, option) < 1:
            raise DataError(f"--{option} is {getattr(arguments, option)}, expected 1 or more")
    if arguments.seed < 0:
        raise DataError(f"--seed is {arguments.seed}, expected 0 or more")
    contract = load_contract(find_contract("sim_arm"))
    schema = DatasetSchema.of(contract, round(contract.fps))
    video = VideoSettings.of_options(arguments.vcodec, arguments.crf, arguments.preset)
    # LeRobot takes seconds to import, which a refusal need not wait for.
    from vla_training.data.demonstrations.demonstration_shards import Job, make_shards
    from vla_training.data.writing.dataset_writer import write_dataset
    from vla_training.data.writing.encoder import check_video

    check_video(video, schema)
    job = Job(arguments.seed, arguments.shares, arguments.noise, schema, video)
    settings = {key: value for key, value in asdict(job).items() if key != "schema"}
    about = {
        "made_by": "vla-demonstrate",
        "contract_digest": contract_digest(contract),
        "settings": {"fps": schema.fps, **settings},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        made = make_shards(job, arguments.episodes, Path(folder), arguments.workers)
        shards = list(tqdm(made, total=arguments.episodes, unit="episode", disable=None))
        seconds = time.perf_counter() - begin
        write_dataset(out, [shard.folder for shard in shards], schema, video, about)
    print(f"{out}: {_summary(shards, schema.fps, seconds)}")


def _summary(shards: Sequence["Shard"], fps: int, seconds: float) -> str:
    frames = sum(shard.length for shard in shards)
    failures = Counter(
        shard.source["fault"] or "without a fault"
        for shard in shards
        if shard.outcome == Outcome.FAILURE
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in failures.most_common())
    failed = failures.total()
    return (
        f"{len(shards)} episodes, {len(shards) - failed} successes and {failed} failures"
        f"{f' ({kinds})' if kinds else ''}; {frames} frames at {fps} Hz, made at "
        f"{frames / fps / seconds:.1f} times real time"
    )
