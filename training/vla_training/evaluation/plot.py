# SPDX-License-Identifier: Apache-2.0
"""``vla-plot``: one subcommand for each kind of model."""

from collections.abc import Sequence

from vla_training.console import run_command
from vla_training.evaluation.value_arguments import ValuePlotArguments


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-plot``; returns the exit status."""
    return run_command("vla-plot", {"value": ValuePlotArguments}, _plot, argv)


def _plot(arguments: ValuePlotArguments) -> None:
    from vla_training.evaluation.value_drawing import draw

    draw(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
