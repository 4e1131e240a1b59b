# SPDX-License-Identifier: Apache-2.0
"""What the options of several commands are checked for."""

from collections.abc import Mapping
from typing import Any

from vla_training.data.errors import DataError


def check_least(arguments: Any, least: Mapping[str, int]) -> None:
    """Refuses numbers that are too small.

    Args:
        arguments: Options, as attributes.
        least: By option.

    Raises:
        DataError: One is smaller.
    """
    for name, number in least.items():
        if (told := getattr(arguments, name)) < number:
            option = name.replace("_", "-")
            raise DataError(f"--{option} is {told}, expected at least {number}")


def chosen_device(told: str | None) -> str:
    """Where models run: what was told, or a GPU where there is one.

    Raises:
        DataError: There is no such device.
    """
    import torch  # takes seconds, and --help is to come at once

    device = told or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DataError(f"--device is {device}, but PyTorch finds no such device here")
    return device
