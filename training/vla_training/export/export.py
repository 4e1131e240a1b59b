# SPDX-License-Identifier: Apache-2.0
"""``vla-export``: one subcommand for each kind of model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.export.errors import ExportError


@dataclass(frozen=True)
class ValueArguments:
    """Exports a value function for ONNX Runtime, into its own folder.

    Attributes:
        checkpoint: Its folder.
        format: Of the graphs.
        cameras: That the robot has, some of those that it was trained with; None for as many.
        batch: Texts to be estimated at once: 2 where a subtask's value is watched beside the
            task's, and the device is a GPU.
        precision: Of the weights and products. On a CPU fp16 is no faster.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    format: Literal["onnx"] = "onnx"
    cameras: int | None = None
    batch: int = 1
    precision: Literal["fp32", "fp16"] = "fp32"

    def run(self) -> str:
        """Exports, and returns what was written."""
        # The exporter takes seconds to import, and --help is to come at once.
        from vla_training.export.value_onnx import export_value

        return export_value(self.checkpoint, self.cameras, self.batch, self.precision)


@dataclass(frozen=True)
class EnergyArguments:
    """Exports an energy model for ONNX Runtime, into its own folder.

    Attributes:
        checkpoint: Its folder.
        policy: The policy that it was trained with, whose hidden states it reads.
        format: Of the graphs.
        candidates: Chunks to be judged at once.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    policy: Path
    format: Literal["onnx"] = "onnx"
    candidates: int = 1

    def run(self) -> str:
        """Exports, and returns what was written."""
        from vla_training.export.energy_onnx import export_energy

        return export_energy(self.checkpoint, self.policy, self.candidates)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-export``; returns the exit status."""
    arguments = tyro.extras.subcommand_cli_from_dict(
        {"value": ValueArguments, "energy": EnergyArguments}, prog="vla-export", args=argv
    )
    try:
        print(arguments.run())
    except (CheckpointError, ExportError, OSError) as error:
        print(f"vla-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-export: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
