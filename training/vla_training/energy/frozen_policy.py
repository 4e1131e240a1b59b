# SPDX-License-Identifier: Apache-2.0
"""The policy that an energy model belongs to, as it is."""

from dataclasses import dataclass
from functools import cached_property

import torch

from vla_nodes.models.checkpoint import Checkpoint, load_model, read_checkpoint
from vla_nodes.models.energy_checkpoint import policy_digest
from vla_nodes.models.pi05 import Pi05
from vla_training.energy.energy_source import EnergySource
from vla_training.options import chosen_device


@dataclass(eq=False)
class FrozenPolicy:
    """A policy whose contexts are wanted; its weights are not read before it has to look.

    Attributes:
        checkpoint: Its own.
        digest: Of all that its hidden states follow from.
        dtype: In which it computes.
        device: Where.
    """

    checkpoint: Checkpoint
    digest: str
    dtype: torch.dtype
    device: str

    @classmethod
    def open(cls, source: EnergySource) -> "FrozenPolicy":
        """Reads all but the weights.

        Raises:
            CheckpointError: It cannot be used.
            DataError: There is no such device.
        """
        checkpoint = read_checkpoint(source.policy)
        dtype = torch.bfloat16 if source.bf16 else torch.float32
        device = chosen_device(source.device)
        return cls(checkpoint, policy_digest(checkpoint.folder), dtype, device)

    @cached_property
    def model(self) -> Pi05:
        """In evaluation mode."""
        return load_model(self.checkpoint, self.dtype, self.device)
