# SPDX-License-Identifier: Apache-2.0
"""``vla-calibrate``: how high an energy may be before its chunk is rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla_training.console import run_command
from vla_training.data.errors import DataError
from vla_training.energy.frames_arguments import FramesArguments


@dataclass(frozen=True, kw_only=True)
class CalibrationArguments(FramesArguments):
    """Sets the threshold of an energy model, on expert chunks that it was not trained on.

    Attributes:
        checkpoint: Its folder; the calibration is written into it.
        epsilon: Share of expert chunks that may be rejected.
        samples: Chunks that the policy draws for each frame of the test part, to see how many are
            rejected.
        layers: See also how many of the chunks of the policy's earlier layers are rejected.
        out: Folder for report.json and energies.png; none are written without.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    epsilon: float = 0.05

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is out of its range, or there is no dataset.
        """
        super().__post_init__()
        if not 0.0 < self.epsilon < 1.0:
            raise DataError(f"--epsilon is {self.epsilon}, expected a share between 0 and 1")


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-calibrate``; returns the exit status."""
    return run_command("vla-calibrate", {"energy": CalibrationArguments}, _calibrate, argv)


def _calibrate(arguments: CalibrationArguments) -> None:
    from vla_training.energy.calibration import calibrate_checkpoint

    calibrate_checkpoint(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
