# SPDX-License-Identifier: Apache-2.0
"""A small pi0.5 in which every weight matters, and random batches for it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch, Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config, tiny

Side = Literal["left", "right"]


def make_model(config: Pi05Config | None = None, seed: int = 0) -> Pi05:
    """A model to compare with: no norm is the identity, and no gate of the expert is closed."""
    torch.manual_seed(seed)
    model = Pi05(config or tiny())
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
    return model.eval()


def random_views(
    config: Pi05Config,
    rows: int = 3,
    cameras: int = 2,
    absent: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> Views:
    """Pictures; ``absent`` holds (row, camera)."""
    side = config.image_size
    pixels = torch.rand(rows, cameras, 3, side, side, generator=_generator(seed)) * 2 - 1
    mask = torch.ones(rows, cameras, dtype=torch.bool)
    for row, camera in absent:
        mask[row, camera] = False
    return Views(pixels, mask)


def random_texts(config: Pi05Config, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Token ids, 1 and up: 0 is left for padding."""
    generator = _generator(seed)
    return [
        torch.randint(1, config.vocabulary, (length,), generator=generator).tolist()
        for length in lengths
    ]


def padded(
    texts: Sequence[Sequence[int]], side: Side = "right", extra: int = 0, fill: int = 0
) -> Tokens:
    """Texts as one batch, ``extra`` tokens longer than the longest, padded with ``fill``."""
    width = max(map(len, texts)) + extra
    ids = torch.full((len(texts), width), fill, dtype=torch.long)
    mask = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        ids[row, place] = torch.tensor(text, dtype=torch.long)
        mask[row, place] = True
    return Tokens(ids, mask)


def random_noise(config: Pi05Config, rows: int = 3, seed: int = 0) -> Tensor:
    """(rows, T, A)."""
    shape = (rows, config.chunk, config.max_action_dim)
    return torch.randn(shape, generator=_generator(seed))


def random_action(
    config: Pi05Config,
    pad_steps: Sequence[int] = (0, 2, 3),
    dims: int | None = None,
    delay: Sequence[int] | None = None,
    seed: int = 0,
) -> ActionTarget:
    """Chunks, one for each of ``pad_steps``, which says how many steps at its end are padding."""
    dims = config.max_action_dim - 2 if dims is None else dims
    actions = random_noise(config, len(pad_steps), seed)
    actions[..., dims:] = 0.0
    steps = torch.arange(config.chunk)
    is_pad = torch.stack([steps >= config.chunk - count for count in pad_steps])
    return ActionTarget(actions, is_pad, dims, None if delay is None else torch.tensor(delay))


def random_batch(
    config: Pi05Config,
    side: Side = "right",
    extra: int = 0,
    fill: int = 0,
    delay: Sequence[int] | None = None,
    seed: int = 0,
) -> Pi05Batch:
    """Three items with texts of unlike lengths, steps and dims of padding, and a camera absent."""
    texts = (
        padded(random_texts(config, lengths, seed + number), side, extra, fill)
        for number, lengths in enumerate(((7, 4, 9), (3, 5, 1), (6, 8, 5)))
    )
    return Pi05Batch(
        random_views(config, absent=[(1, 0)], seed=seed),
        *texts,
        random_action(config, delay=delay, seed=seed),
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
