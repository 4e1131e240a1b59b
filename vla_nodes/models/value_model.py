# SPDX-License-Identifier: Apache-2.0
"""Value functions behind one interface: how far a task has come, by pictures and its text."""

from typing import Protocol

from torch import Tensor, nn

from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.value_config import ValueConfig


class ValueModel(Protocol):
    """What every value function does; all of them are torch modules.

    Pictures are encoded apart, so that those of earlier frames, of a second text, and of an
    epoch before need not be encoded again.

    Attributes:
        config: Sizes.
    """

    config: ValueConfig

    def encode(self, pixels: Tensor) -> Tensor:
        """Features of pictures.

        Args:
            pixels: (M, 3, S, S) float32, black -1, white 1.

        Returns:
            (M, P, W_vision).
        """

    def __call__(self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor) -> Tensor:
        """Estimates.

        Args:
            features: (B, V, P, W_vision); views are camera by camera, of each the oldest frame
                first.
            mask: (B, V) bool, True where a picture is there; at least one of a row.
            ids: (B, L) int64, as ``value_prompt`` makes them.
            id_mask: (B, L) bool.

        Returns:
            (B, 201) float32, logits of ``c51``'s atoms.
        """


def make_value_model(config: ValueConfig) -> CrossAttentionValue | StitchedValue:
    """A value function with new weights."""
    kinds: dict[str, type[CrossAttentionValue] | type[StitchedValue]] = {
        "cross-attention": CrossAttentionValue,
        "stitched": StitchedValue,
    }
    return kinds[config.arch](config)


def new_layers(model: nn.Module) -> list[str]:
    """Parameters, by name, that no pretrained SigLIP or Gemma has."""
    return [n for n, _ in model.named_parameters() if not n.startswith(("vision.", "language."))]
