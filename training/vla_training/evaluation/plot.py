# SPDX-License-Identifier: Apache-2.0
"""``vla-plot``: one subcommand for each kind of model."""

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.evaluation.value_arguments import ValuePlotArguments
from vla_training.recipes.errors import TrainingError, last_line

_COMMANDS: dict[str, Callable[..., ValuePlotArguments]] = {"value": ValuePlotArguments}


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-plot``; returns the exit status."""
    try:
        arguments = tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="vla-plot", args=argv)
        # PyTorch's threads wait by spinning, which stops all work where loaders want processors.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # What draws takes seconds to import, and --help is to come at once.
        from vla_training.evaluation.value_drawing import draw

        draw(arguments)
    except (DataError, CheckpointError, TrainingError, OSError) as error:
        print(f"vla-plot: {last_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-plot: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
