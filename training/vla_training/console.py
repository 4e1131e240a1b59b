# SPDX-License-Identifier: Apache-2.0
"""What commands with subcommands have in common: how they begin, and how they end."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.recipes.errors import TrainingError, last_line


def run_command[A](
    name: str,
    subcommands: Mapping[str, Callable[..., A]],
    act: Callable[[A], None],
    argv: Sequence[str] | None,
) -> int:
    """Parses arguments and acts on them.

    Args:
        name: Of the command.
        subcommands: Dataclasses of their arguments.
        act: Imports what it needs, which takes seconds: --help is to come at once.
        argv: Of the command, without its name; None for the process's own.

    Returns:
        The exit status; one line on stderr says what was wrong.
    """
    try:
        arguments = tyro.extras.subcommand_cli_from_dict(dict(subcommands), prog=name, args=argv)
        # PyTorch's threads wait by spinning, which stops all work where loaders want processors.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        act(arguments)
    except (DataError, CheckpointError, TrainingError, OSError) as error:
        print(f"{name}: {last_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
