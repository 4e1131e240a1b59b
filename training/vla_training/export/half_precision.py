# SPDX-License-Identifier: Apache-2.0
"""Value functions whose products are in float16.

Gemma 3 was trained in bfloat16, whose numbers reach further: the sums between its layers
overflow float16. So only its products are in float16, as are all of SigLIP's numbers; sums,
norms, attention and the head stay in float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.stitched_value import StitchedValue


class HalfLinear(nn.Module):
    """A linear layer in float16 between layers in float32.

    Args:
        linear: Whose weights to take.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.half(), requires_grad=False)
        self.bias = None
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.half(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out) float32."""
        return functional.linear(x.half(), self.weight, self.bias).float()


@torch.no_grad()
def halve(model: CrossAttentionValue | StitchedValue) -> None:
    """Changes a model in place."""
    model.vision.half()
    model.language.embed_tokens.half()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.startswith(("vision.", "head")):
            model.set_submodule(name, HalfLinear(module))
