# SPDX-License-Identifier: Apache-2.0
"""``vla-eval``: one subcommand for each kind of model."""

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.evaluation.policy_arguments import PolicyArguments
from vla_training.evaluation.value_arguments import ValueArguments
from vla_training.recipes.errors import TrainingError, last_line

_COMMANDS: dict[str, Callable[..., PolicyArguments | ValueArguments]] = {
    "policy": PolicyArguments,
    "value": ValueArguments,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-eval``; returns the exit status."""
    try:
        arguments = tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="vla-eval", args=argv)
        # PyTorch's threads wait by spinning, which stops all work where loaders want processors.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        _evaluate(arguments)
    except (DataError, CheckpointError, TrainingError, OSError) as error:
        print(f"vla-eval: {last_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-eval: interrupted", file=sys.stderr)
        return 130
    return 0


def _evaluate(arguments: PolicyArguments | ValueArguments) -> None:
    """What evaluates takes seconds to import, and --help is to come at once."""
    if isinstance(arguments, ValueArguments):
        from vla_training.evaluation import value

        value.evaluate(arguments)
    else:
        from vla_training.evaluation import policy

        policy.evaluate(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
