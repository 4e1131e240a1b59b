# SPDX-License-Identifier: Apache-2.0
"""A small pi0.5 with random weights, its engine, and the same inputs for both."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vla_nodes.inference.engine import EngineOptions, Pi05Engine
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config, tiny


def config() -> Pi05Config:
    """Three layers: a first, one between, and a last, which the engine cuts short."""
    small = tiny()
    return dataclasses.replace(
        small,
        language=dataclasses.replace(small.language, depth=3),
        expert=dataclasses.replace(small.expert, depth=3),
        max_delay=small.chunk - 1,
    )


@functools.cache
def plain(kv_heads: int = 1) -> Pi05:
    """In float32; no norm is the identity, and no gate of the expert is closed."""
    size = config()
    size = dataclasses.replace(
        size,
        language=dataclasses.replace(size.language, kv_heads=kv_heads),
        expert=dataclasses.replace(size.expert, kv_heads=kv_heads),
    )
    torch.manual_seed(0)
    model = Pi05(size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
        # As its own embedding is the language head's, too, a token would write itself.
        model.language.embed_tokens.weight.mul_(0.2)
    return model


def engine(model: Pi05 | None = None, **options: Any) -> Pi05Engine:
    """On a copy of a model."""
    return Pi05Engine(copy.deepcopy(model or plain()), EngineOptions(**options))


def pictures(count: int, seed: int = 0) -> Tensor:
    """(V, 3, S, S) in [-1, 1]."""
    side = config().image_size
    return torch.rand(count, 3, side, side, generator=_generator(seed)) * 2 - 1


def prompt(length: int, seed: int = 0) -> list[int]:
    """Any tokens."""
    ids = torch.randint(config().vocabulary, (length,), generator=_generator(100 + seed))
    return ids.tolist()


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed."""
    return torch.randn(shape, generator=_generator(200 + seed))


def noise(candidates: int = 1, seed: int = 0) -> Tensor:
    """(K, T, A)."""
    return normal(candidates, config().chunk, config().max_action_dim, seed=seed)


def views(seen: Tensor, batch: int = 1, absent: int = 0) -> Views:
    """Pictures as the plain form takes them, behind those of absent cameras."""
    blank = torch.full((absent, *seen.shape[1:]), -1.0)
    mask = torch.arange(absent + len(seen)) >= absent
    pixels = torch.cat([blank, seen])
    return Views(pixels.expand(batch, *pixels.shape), mask.expand(batch, -1))


def tokens(row: Sequence[int], batch: int = 1) -> Tokens:
    """One text for all rows."""
    ids = torch.tensor([list(row)], dtype=torch.long).expand(batch, -1)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
