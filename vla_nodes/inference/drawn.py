# SPDX-License-Identifier: Apache-2.0
"""What an engine draws, and what it keeps of it to draw and judge more."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prefix:
    """Pictures and prompt as the language model has left them; see ``Actor.again``.

    Attributes:
        key: Of the shapes.
        kept: The energy model's context, keys and values, and where they end.
        given: The weight of guidance, and where there are some, decided actions.
        padded: Whether prompts are padded.
    """

    key: Hashable
    kept: tuple[Tensor, Tensor, Tensor]
    given: Sequence[Tensor]
    padded: bool


@dataclass(frozen=True, eq=False)
class Drawn:
    """What ``Pi05Engine.act`` and ``again`` return.

    Attributes:
        actions: (K, T, A) float32, normalised and padded.
        hidden: (F + L, W) last hidden states of pictures and prompt, if they were asked for.
        energies: (K,) float32; None without an energy model.
        prefix: What ``again`` draws over; None without an energy model.
    """

    actions: Tensor
    hidden: Tensor | None = None
    energies: Tensor | None = None
    prefix: Prefix | None = None
