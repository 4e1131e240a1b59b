# SPDX-License-Identifier: Apache-2.0
"""Models as an engine needs them: on its device, of its type, and not to be trained."""

import torch
from torch import nn

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.gemma import AdaptiveRmsNorm, RmsNorm
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import Pi05Config


def take_over(model: Pi05, device: torch.device, dtype: torch.dtype) -> Pi05:
    """Moves and converts; in bfloat16, what computes in float32 keeps the type it has."""
    exact: list[nn.Module] = [model.time_mlp_in, model.time_mlp_out, model.action_out_proj]
    exact += [part for part in model.modules() if isinstance(part, (RmsNorm, AdaptiveRmsNorm))]
    keeps = {parameter for part in exact for parameter in part.parameters()}
    for parameter in model.parameters():
        kept = dtype == torch.bfloat16 and parameter in keeps
        parameter.data = parameter.data.to(device, parameter.dtype if kept else dtype)
    return model.to(device)  # the buffers


def take_over_energy(energy: EnergyModel, config: Pi05Config, device: torch.device) -> None:
    """Moves an energy model to its policy.

    Args:
        energy: Stays in float32. Its own checks for finite numbers are only kept on a CPU: on a
            GPU each of them waits for the device.
        config: Of the policy.
        device: Of both.

    Raises:
        ValueError: It is of another policy.
    """
    theirs, ours = energy.config, config
    if theirs.state_dim != ours.language.width or theirs.action_dim > ours.max_action_dim:
        raise ValueError(
            f"the energy model takes hidden states of {theirs.state_dim} and actions of "
            f"{theirs.action_dim}; the policy has {ours.language.width}, and at most "
            f"{ours.max_action_dim}"
        )
    energy.float().to(device).eval().requires_grad_(False)
    energy.checks = device.type == "cpu"
