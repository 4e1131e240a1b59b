# SPDX-License-Identifier: Apache-2.0
"""AdamW (https://arxiv.org/abs/1711.05101), and what it keeps, by the names of parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vla_training.recipes.loop_settings import LoopSettings

BETAS = (0.9, 0.95)
EPSILON = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")

Parameters = Mapping[str, nn.Parameter]


def make_optimizer(parameters: Parameters, settings: LoopSettings) -> torch.optim.AdamW:
    """An optimiser that lets only matrices decay, not norms and biases."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    vectors = [p for p in parameters.values() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=BETAS, eps=EPSILON, fused=True
    )


def moments(optimizer: torch.optim.AdamW, parameters: Parameters) -> dict[str, Tensor]:
    """What the optimiser keeps of each parameter's gradients."""
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        for moment in _MOMENTS
    }


def moments_like(parameters: Parameters) -> dict[str, Tensor]:
    """Tensors of the names and shapes of ``moments``."""
    return {f"{name}.{moment}": p for name, p in parameters.items() for moment in _MOMENTS}


def set_moments(
    optimizer: torch.optim.AdamW, parameters: Parameters, tensors: Mapping[str, Tensor], step: int
) -> None:
    """Puts an optimiser where it was after ``step`` steps; the inverse of ``moments``."""
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            **{moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS},
        }
