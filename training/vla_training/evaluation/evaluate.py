# SPDX-License-Identifier: Apache-2.0
"""``vla-eval``: one subcommand for each kind of model."""

from collections.abc import Callable, Sequence

from vla_training.console import run_command
from vla_training.evaluation.energy_arguments import EnergyArguments
from vla_training.evaluation.policy_arguments import PolicyArguments
from vla_training.evaluation.value_arguments import ValueArguments

Arguments = EnergyArguments | PolicyArguments | ValueArguments

_COMMANDS: dict[str, Callable[..., Arguments]] = {
    "energy": EnergyArguments,
    "policy": PolicyArguments,
    "value": ValueArguments,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-eval``; returns the exit status."""
    return run_command("vla-eval", _COMMANDS, _evaluate, argv)


def _evaluate(arguments: Arguments) -> None:
    if isinstance(arguments, EnergyArguments):
        from vla_training.evaluation import energy

        energy.evaluate(arguments)
    elif isinstance(arguments, ValueArguments):
        from vla_training.evaluation import value

        value.evaluate(arguments)
    else:
        from vla_training.evaluation import policy

        policy.evaluate(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
