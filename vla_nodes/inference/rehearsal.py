# SPDX-License-Identifier: Apache-2.0
"""What backends find out before there is work to do: whether device and policy run."""

import numpy as np
import torch

from vla_nodes.contract import Contract
from vla_nodes.models.errors import CheckpointError
from vla_nodes.observation.observation import Observation


def check_device(device: str) -> None:
    """Allocates on a device.

    Raises:
        CheckpointError: There is no such device, or it does not work.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"device '{device}' cannot be used: {reason:.200}") from error


def blank_observation(contract: Contract) -> Observation:
    """Black pictures and a state of zeros, as the contract shapes them."""
    return Observation(
        stamp=0,
        images={c.name: np.zeros((*c.shape, 3), np.uint8) for c in contract.cameras},
        state=np.zeros(len(contract.state_names)),
        extras={},
        ages={},
        skews={},
    )
