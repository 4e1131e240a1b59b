# SPDX-License-Identifier: Apache-2.0
"""AdamW (https://arxiv.org/abs/1711.05101), and what it keeps, by the names of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_training.recipes.loop_settings import LoopSettings

BETAS = (0.9, 0.95)
EPSILON = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")

Parameters = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Apart:
    """Parameters that are trained beside the others, at a rate of their own.

    They stay as they are until the warm-up of the others is over; from then on their rate falls
    as that of the others does.

    Attributes:
        name: That their names begin with, before a dot.
        learning_rate: At its highest.
        clip: Longest gradient of them.
    """

    name: str
    learning_rate: float
    clip: float


class Optimizer:
    """An optimiser that lets only matrices decay, not norms and biases.

    Args:
        parameters: What is trained, by name.
        settings: Of the loop.
        apart: Some of it; None where all is trained alike.
    """

    def __init__(
        self, parameters: Parameters, settings: LoopSettings, apart: Apart | None = None
    ) -> None:
        self._parameters, self._settings, self._apart = parameters, settings, apart
        prefix = f"{apart.name}." if apart else None
        self._others = [p for n, p in parameters.items() if not (prefix and n.startswith(prefix))]
        self._own = [p for n, p in parameters.items() if prefix and n.startswith(prefix)]
        groups = [*self._groups(self._others, apart=False), *self._groups(self._own, apart=True)]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)

    def _groups(self, parameters: list[nn.Parameter], *, apart: bool) -> list[dict]:
        return [
            {
                "params": [p for p in parameters if (p.ndim > 1) is matrices],
                "weight_decay": self._settings.weight_decay if matrices else 0.0,
                "apart": apart,
            }
            for matrices in (True, False)
        ]

    def clip(self) -> dict[str, Tensor]:
        """Shortens gradients that are too long; returns how long they were, by name."""
        clip = nn.utils.clip_grad_norm_
        lengths = {"gradient": clip(self._others, self._settings.clip)}
        if self._apart:
            lengths[f"{self._apart.name}_gradient"] = clip(self._own, self._apart.clip)
        return lengths

    def step(self, step: int) -> None:
        """Makes a step, counted from 0, and forgets the gradients."""
        settings, apart = self._settings, self._apart
        rate = settings.rate(step)
        for group in self._adamw.param_groups:
            group["lr"] = rate
            if group["apart"] and apart:
                share = rate / settings.learning_rate
                group["lr"] = 0.0 if step < settings.warmup_steps else apart.learning_rate * share
        self._adamw.step()
        self._adamw.zero_grad()

    def moments(self) -> dict[str, Tensor]:
        """What is kept of each parameter's gradients."""
        return {
            f"{name}.{moment}": self._adamw.state[parameter][moment]
            for name, parameter in self._parameters.items()
            for moment in _MOMENTS
        }

    def moments_like(self) -> dict[str, Tensor]:
        """Tensors of the names and shapes of ``moments``."""
        return {
            f"{name}.{moment}": p for name, p in self._parameters.items() for moment in _MOMENTS
        }

    def set_moments(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Puts it where it was after ``step`` steps; the inverse of ``moments``."""
        for name, parameter in self._parameters.items():
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{moment: tensors[f"{name}.{moment}"].to(parameter.device) for moment in _MOMENTS},
            }
