# SPDX-License-Identifier: Apache-2.0
"""``vla-calibrate``: how high an energy may be before its chunk is rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_training.console import run_command
from vla_training.data.errors import DataError


@dataclass(frozen=True)
class CalibrationArguments:
    """Sets the threshold of an energy model, on expert chunks that it was not trained on.

    Attributes:
        checkpoint: Its folder; the calibration is written into it.
        policy: Folder of the checkpoint of its policy.
        dataset: Folders of the LeRobot v3 datasets that it was trained on.
        epsilon: Share of expert chunks that may be rejected.
        stride: Take every such frame of an episode only.
        samples: Chunks that the policy draws for each frame of the test part, to see how many are
            rejected.
        layers: See also how many of the chunks of the policy's earlier layers are rejected.
        seed: Of perturbed chunks and samples.
        contexts: Folder that keeps what the policy saw; contexts beside the checkpoint if nothing
            is said.
        batch_size: Frames at a time.
        workers: Processes that decode videos.
        device: A GPU where there is one, if nothing is said.
        bf16: Let the policy compute in bfloat16.
        out: Folder for report.json and energies.png; none are written without.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    policy: Path
    dataset: tuple[Path, ...]
    epsilon: float = 0.05
    stride: int = 1
    samples: int = 0
    layers: bool = False
    seed: int = 0
    contexts: Path | None = None
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is out of its range, or there is no dataset.
        """
        if not 0.0 < self.epsilon < 1.0:
            raise DataError(f"--epsilon is {self.epsilon}, expected a share between 0 and 1")
        least = {"stride": 1, "samples": 0, "seed": 0, "batch_size": 1, "workers": 0}
        for name, number in least.items():
            if (told := getattr(self, name)) < number:
                option = name.replace("_", "-")
                raise DataError(f"--{option} is {told}, expected at least {number}")
        if not self.dataset:
            raise DataError("--dataset names no folder, expected one at least")


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-calibrate``; returns the exit status."""
    return run_command("vla-calibrate", {"energy": CalibrationArguments}, _calibrate, argv)


def _calibrate(arguments: CalibrationArguments) -> None:
    from vla_training.energy.calibration import calibrate_checkpoint

    calibrate_checkpoint(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
