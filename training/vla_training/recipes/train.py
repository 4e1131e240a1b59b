# SPDX-License-Identifier: Apache-2.0
"""``vla-train``: one subcommand for each training.

On several processes: ``accelerate launch -m vla_training.recipes.train policy ...``.
"""

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.recipes.errors import TrainingError, last_line
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.recipes.settings_file import with_files


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-train``; returns the exit status."""
    commands: dict[str, Callable[..., PolicySettings]] = {"policy": PolicySettings}
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in commands:
            words[1:] = with_files(words[1:], commands[words[0]])
        settings = tyro.extras.subcommand_cli_from_dict(commands, prog="vla-train", args=words)
        # PyTorch's threads wait by spinning, which stops all work where loaders want processors.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # What trains takes seconds to import, and --help is to come at once.
        from vla_training.recipes.policy import train_policy

        print(train_policy(settings))
    except (TrainingError, DataError, CheckpointError, OSError) as error:
        print(f"vla-train: {last_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"vla-train: {error or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
