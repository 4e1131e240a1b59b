# SPDX-License-Identifier: Apache-2.0
"""The running average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """An exponential moving average, float32.

    It forgets its beginning: the share that it keeps of itself rises to ``decay`` with the
    number of steps n as (1 + n)/(10 + n).

    Attributes:
        weights: The average, by name.

    Args:
        parameters: What is averaged, by name.
        decay: Share of itself that the average keeps in a step, in the long run.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in parameters.items()}

    def update(self, step: int) -> None:
        """Takes in the weights after a step, counted from 1."""
        keep = min(self._decay, (1.0 + step) / (10.0 + step))
        new = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.weights.values()), new, 1.0 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the average for weights in here, and its own again afterwards."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._set(self.weights)
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
