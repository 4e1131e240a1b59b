# SPDX-License-Identifier: Apache-2.0
"""The energy of an action chunk: how badly it fits what the policy sees; low fits.

The context is the policy's last hidden states, h (B, S, D). Actions attend to it, and each gets
an energy between 0.1 and 2.1, whose mean is that of the chunk.

Whatever B contexts are held against however many chunks, contexts and actions are encoded once
each, and only what depends on both, attention and head, is computed for every pair. With 32
contexts of 600 x 4096 and chunks of 8 actions that is a 26th of the operations.

Parameters have the names of the OpenVLA energy model that this follows: ``state_linear``,
``action_linear``, ``cross``, ``prediction_head``, and inside a residual MLP ``layer_norm1``,
``fc1``, ``mlp_resnet_blocks``, ``layer_norm2``, ``fc2`` (as in OpenVLA-OFT,
https://arxiv.org/abs/2502.19645); ``pool`` is our own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.energy_config import LOWEST, RANGE, SLOPE, EnergyConfig


class EnergyContext(NamedTuple):
    """What actions are held against, encoded.

    Attributes:
        features: (B, S, hidden) of the policy's hidden states; (B, 1, hidden) their mean in the
            global form.
        ignore: (B, S) bool, True for what is not looked at; None for nothing.
    """

    features: Tensor
    ignore: Tensor | None


class EnergyModel(nn.Module):
    """The model; it computes in float32, whatever autocast says.

    Attributes:
        config: Sizes and form.
        checks: Whether what is computed is checked to be finite. On a GPU each check waits for
            the device; code that is compiled or captured does none.
    """

    def __init__(self, config: EnergyConfig) -> None:
        super().__init__()
        self.config, self.checks = config, True
        hidden = config.hidden
        self.state_linear = ResidualMlp(1, config.state_dim, hidden, hidden)
        self.action_linear = ResidualMlp(1, config.action_dim, hidden, hidden)
        self.cross = nn.MultiheadAttention(hidden, config.heads, batch_first=True)
        self.pool = AttentionPool(hidden, config.heads) if config.pooling == "attention" else None
        self.prediction_head = ResidualMlp(2, hidden, hidden, 1)

    def forward(self, hidden: Tensor, actions: Tensor, ignore: Tensor | None = None) -> Tensor:
        """Energies of chunks, each in its own context.

        Args:
            hidden: (B, S, D).
            actions: (B, T, A), normalised.
            ignore: (B, S) bool, True for hidden states that are not to be looked at.

        Returns:
            (B,) float32.

        Raises:
            ValueError: A shape does not fit, or a row ignores everything.
            FloatingPointError: Something is not finite; names it.
        """
        return self.energies(self.context(hidden, ignore), actions[:, None])[:, 0]

    def context(self, hidden: Tensor, ignore: Tensor | None = None) -> EnergyContext:
        """Encodes contexts; arguments and errors as of ``forward``."""
        config = self.config
        if hidden.ndim != 3 or hidden.shape[2] != config.state_dim or not hidden.shape[1]:
            raise ValueError(f"hidden {tuple(hidden.shape)}, expected (B, S, {config.state_dim})")
        self._check_ignored(ignore, hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            self._check_finite("hidden states", hidden)
            features = self.state_linear(hidden)
            if config.form == "global":
                features, ignore = _mean(features, ignore), None
        self._check_finite("features of the context", features)
        return EnergyContext(features, ignore)

    def energies(self, context: EnergyContext, actions: Tensor) -> Tensor:
        """Energies of K chunks in each context.

        Args:
            context: Of B.
            actions: (B, K, T, A), normalised; (1, K, T, A) for the same in every context, which
                are then encoded once.

        Returns:
            (B, K) float32.

        Raises:
            ValueError: A shape does not fit.
            FloatingPointError: Something is not finite; names it.
        """
        rows = len(context.features)
        if (
            actions.ndim != 4
            or len(actions) not in (1, rows)
            or actions.shape[3] != self.config.action_dim
            or not actions.shape[2]
        ):
            raise ValueError(
                f"actions {tuple(actions.shape)}, expected ({rows} or 1, K, T, "
                f"{self.config.action_dim})"
            )
        with torch.autocast(actions.device.type, enabled=False):
            actions = actions.float()
            self._check_finite("actions", actions)
            features = self.action_linear(actions)
            features = features + _positions(actions.shape[2], features)
            features = functional.dropout(features, self.config.dropout, self.training)
            self._check_finite("features of the actions", features)
            met = self._attend(context, features)
            self._check_finite("output of the attention", met)
            pooled = met if self.pool is None else self.pool(met)
            steps = self.prediction_head(pooled)[..., 0]
            self._check_finite("output of the head", steps)
            if self.config.bounded:
                steps = RANGE * torch.sigmoid(SLOPE * steps) + LOWEST
            return steps.mean(dim=-1)

    def swapped(self, context: EnergyContext, actions: Tensor) -> Tensor:
        """Energies of every chunk in every context.

        Args:
            context: Of B.
            actions: (C, T, A), normalised.

        Returns:
            (B, C) float32.
        """
        return self.energies(context, actions[None])

    def _attend(self, context: EnergyContext, actions: Tensor) -> Tensor:
        """Cross attention between B contexts and (B or 1, K, T, hidden) actions.

        Returns:
            (B, K, T, hidden), or (B, K, 1, hidden) in the global form.
        """
        weights = self.cross.in_proj_weight.chunk(3)
        biases = self.cross.in_proj_bias.chunk(3)
        rows, chunks = len(context.features), actions.shape[1]

        def projected(number: int, x: Tensor) -> Tensor:
            """(N, L, hidden) to (N, heads, L, head_dim)."""
            x = functional.linear(x, weights[number], biases[number])
            return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

        if self.config.form == "tokens":
            queries = projected(0, actions.flatten(1, 2)).expand(rows, -1, -1, -1)
            keys, values = (projected(number, context.features) for number in (1, 2))
            seen = None if context.ignore is None else ~context.ignore[:, None, None, :]
            met = functional.scaled_dot_product_attention(queries, keys, values, seen)
            met = met.transpose(1, 2).flatten(2).unflatten(1, actions.shape[1:3])
        else:
            queries = projected(0, context.features)  # (B, heads, 1, head_dim)
            keys, values = (projected(number, actions.flatten(0, 1)) for number in (1, 2))
            if len(actions) == rows:
                queries = queries.repeat_interleave(chunks, dim=0)
            else:  # all contexts ask the same chunks: (K, heads, B, head_dim)
                queries = queries.transpose(0, 2).expand(chunks, -1, -1, -1)
            met = functional.scaled_dot_product_attention(queries, keys, values)
            met = met.transpose(1, 2).flatten(2)  # (B·K, 1, hidden) or (K, B, hidden)
            if len(actions) == rows:
                met = met.unflatten(0, (rows, chunks))
            else:
                met = met.transpose(0, 1)[:, :, None]
        return self.cross.out_proj(met)

    def _check_ignored(self, ignore: Tensor | None, hidden: Tensor) -> None:
        if ignore is None:
            return
        if ignore.dtype != torch.bool or ignore.shape != hidden.shape[:2]:
            raise ValueError(
                f"ignore {tuple(ignore.shape)} of {ignore.dtype}, expected "
                f"{tuple(hidden.shape[:2])} of torch.bool"
            )
        if self._checking and bool((blind := ignore.all(dim=1)).any()):
            row = int(blind.nonzero()[0])
            raise ValueError(f"row {row} ignores its whole context, expected something to look at")

    def _check_finite(self, name: str, tensor: Tensor) -> None:
        if self._checking and not bool((finite := tensor.isfinite()).all()):
            place = tuple((~finite).nonzero()[0].tolist())
            raise FloatingPointError(
                f"{name} of the energy model: {tensor[place].item()} at {place}, expected "
                "finite numbers"
            )

    @property
    def _checking(self) -> bool:
        if not self.checks or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


class ResidualMlp(nn.Module):
    """A norm and a layer, residual blocks, a norm and a layer.

    Args:
        blocks: How many.
        width_in: Of what comes in.
        hidden: Within.
        width_out: Of what goes out.
    """

    def __init__(self, blocks: int, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width_in)
        self.fc1 = nn.Linear(width_in, hidden)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) to (..., width_out)."""
        x = functional.silu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ResidualBlock(nn.Module):
    """x + SiLU(Linear(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return x + self.ffn(x)


class AttentionPool(nn.Module):
    """Pools a sequence by one learnt query, which knows the places of what it looks at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, width) to (..., 1, width)."""
        flat = x.flatten(0, -3)
        placed = flat + _positions(flat.shape[1], flat)
        query = self.query.expand(len(flat), 1, -1)
        pooled, _ = self.attention(query, placed, placed, need_weights=False)
        return pooled.unflatten(0, x.shape[:-2])


def _positions(count: int, like: Tensor) -> Tensor:
    """(count, width) sines at even and cosines at odd places (https://arxiv.org/abs/1706.03762)."""
    width = like.shape[-1]
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(1e4) / width))
    angles = torch.arange(count, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


def _mean(features: Tensor, ignore: Tensor | None) -> Tensor:
    """(B, S, W) to (B, 1, W), of what is not ignored."""
    if ignore is None:
        return features.mean(dim=1, keepdim=True)
    seen = ~ignore[..., None]
    return (features * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
