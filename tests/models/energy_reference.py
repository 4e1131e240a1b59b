# SPDX-License-Identifier: Apache-2.0
"""The energy model as its description has it: one chunk in one context at a time, in float64.

Nothing of it is shared with the model but the names of the weights.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_config import EnergyConfig

SMALL = EnergyConfig(state_dim=12, action_dim=3, hidden=16, heads=4)


def make_energy_model(seed: int = 0, **changes: object) -> EnergyModel:
    """A small one in which no norm is the identity, nothing is zero, and energies differ."""
    torch.manual_seed(seed)
    model = EnergyModel(replace(SMALL, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            std = 2 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.7
            parameter.normal_(std=std)
    return model.eval()


def make_energy_batch(
    rows: int = 3, chunks: int = 4, steps: int = 5, length: int = 7, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (B, S, D), where to ignore them (B, S), and actions (C, T, A)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, length, SMALL.state_dim, generator=generator)
    ignore = torch.rand(rows, length, generator=generator) < 0.4
    ignore[torch.arange(rows), torch.randint(length, (rows,), generator=generator)] = False
    return hidden, ignore, torch.randn(chunks, steps, SMALL.action_dim, generator=generator)


class MlpResNet(nn.Module):
    def __init__(self, num_blocks: int, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(input_dim)
        self.fc1 = nn.Linear(input_dim, hidden_dim)
        self.mlp_resnet_blocks = nn.ModuleList()
        for _ in range(num_blocks):
            block = nn.Module()
            block.ffn = nn.ModuleList([nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim)])
            self.mlp_resnet_blocks.append(block)
        self.layer_norm2 = nn.LayerNorm(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(self.layer_norm1(x))
        x = x * torch.sigmoid(x)
        for block in self.mlp_resnet_blocks:
            inner = block.ffn[1](block.ffn[0](x))
            x = x + inner * torch.sigmoid(inner)
        return self.fc2(self.layer_norm2(x))


class LearntPool(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(hidden))
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)


class ReferenceEnergy(nn.Module):
    def __init__(self, config: EnergyConfig) -> None:
        super().__init__()
        self.config, hidden = config, config.hidden
        self.state_linear = MlpResNet(1, config.state_dim, hidden, hidden)
        self.action_linear = MlpResNet(1, config.action_dim, hidden, hidden)
        self.cross = nn.MultiheadAttention(hidden, config.heads, batch_first=True)
        self.prediction_head = MlpResNet(2, hidden, hidden, 1)
        if config.pooling == "attention":
            self.pool = LearntPool(hidden, config.heads)
        self.double()

    def one(self, hidden: Tensor, ignore: Tensor, actions: Tensor) -> Tensor:
        """(S, D), (S,) and (T, A) to an energy."""
        states = self.state_linear(hidden[None].double())
        moves = self.action_linear(actions[None].double())
        moves = moves + sinusoids(len(actions), self.config.hidden)
        if self.config.form == "global":
            mean = states[:, ~ignore].mean(dim=1, keepdim=True)
            z, _ = self.cross(mean, moves, moves)
        else:
            z, _ = self.cross(moves, states, states, key_padding_mask=ignore[None])
        if self.config.pooling == "attention":
            placed = z + sinusoids(len(actions), self.config.hidden)
            z, _ = self.pool.attention(self.pool.query[None, None], placed, placed)
        steps = [self.prediction_head(step) for step in z[0]]
        if self.config.bounded:
            steps = [2.0 / (1.0 + torch.exp(-0.5 * step)) + 0.1 for step in steps]
        return sum(steps)[0] / len(steps)

    def forward(self, hidden: Tensor, ignore: Tensor, actions: Tensor) -> Tensor:
        """(B, S, D), (B, S) and (C, T, A) to (B, C)."""
        return torch.stack(
            [
                torch.stack([self.one(h, i, a) for a in actions])
                for h, i in zip(hidden, ignore, strict=True)
            ]
        )


def sinusoids(steps: int, width: int) -> Tensor:
    """(T, width) float64."""
    table = torch.zeros(steps, width, dtype=torch.float64)
    for step in range(steps):
        for pair in range(width // 2):
            angle = step / 10000 ** (2 * pair / width)
            table[step, 2 * pair] = math.sin(angle)
            table[step, 2 * pair + 1] = math.cos(angle)
    return table


def reference_of(model: EnergyModel) -> ReferenceEnergy:
    """The same weights, every one of them by its name."""
    reference = ReferenceEnergy(model.config)
    reference.load_state_dict(model.state_dict())
    return reference.eval()
