# SPDX-License-Identifier: Apache-2.0
"""``vla-train``: one subcommand for each training.

On several processes: ``accelerate launch -m vla_training.recipes.train policy ...``.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import tyro

from vla_nodes.models.errors import CheckpointError
from vla_training.data.errors import DataError
from vla_training.recipes.alignment_settings import AlignmentSettings
from vla_training.recipes.energy_settings import EnergySettings
from vla_training.recipes.errors import TrainingError, last_line
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.recipes.settings_file import with_files
from vla_training.recipes.value_settings import StitchedSettings, ValueSettings

Settings = PolicySettings | ValueSettings | AlignmentSettings | EnergySettings
_COMMANDS: dict[str, type[Settings]] = {
    "policy": PolicySettings,
    "alignment": AlignmentSettings,
    "value": ValueSettings,
    "energy": EnergySettings,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-train``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in _COMMANDS:
            words[1:] = with_files(words[1:], _COMMANDS[words[0]])
        # Each architecture has defaults of its own.
        value = StitchedSettings if _arch(words) == "stitched" else ValueSettings
        commands: dict[str, Callable[..., Settings]] = {**_COMMANDS, "value": value}
        settings = tyro.extras.subcommand_cli_from_dict(commands, prog="vla-train", args=words)
        # PyTorch's threads wait by spinning, which stops all work where loaders want processors.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        print(_train(settings))
    except (TrainingError, DataError, CheckpointError, OSError) as error:
        print(f"vla-train: {last_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"vla-train: {error or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def _arch(words: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--arch", nargs="?")
    asked: str | None = parser.parse_known_args(words)[0].arch
    return asked


def _train(settings: Settings) -> str:
    """Imports what trains only now: that takes seconds, and --help is to come at once."""
    if isinstance(settings, AlignmentSettings):
        from vla_training.recipes.alignment import train_alignment

        return train_alignment(settings)
    if isinstance(settings, ValueSettings):
        if settings.stage == "both":
            from vla_training.recipes.value_stages import train_both

            return train_both(settings)
        from vla_training.recipes.value import train_value

        return train_value(settings)
    if isinstance(settings, EnergySettings):
        from vla_training.recipes.energy import train_energy

        return train_energy(settings)
    from vla_training.recipes.policy import train_policy

    return train_policy(settings)


if __name__ == "__main__":
    sys.exit(main())
