# SPDX-License-Identifier: Apache-2.0
"""Writes subtasks token by token, and scores known ones."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vla_nodes.inference.cuda_graphs import CudaGraphs, Directly
from vla_nodes.inference.language import Language, Store

LOOK_EVERY = 8
"""Tokens between two looks for the end on CUDA, where each look waits for the device."""


class Decoding(NamedTuple):
    """What a decoding keeps on the device from one token to the next.

    Attributes:
        cache: (layers, 2, 1, kv_heads, N + limit, head_dim) keys and values of the prefix and
            of the tokens behind it.
        there: (1, 1, 1, N + limit) bool, the prefix's tokens that are there.
        end: (1,) the first position behind the prefix.
        written: (limit,) tokens.
    """

    cache: Tensor
    there: Tensor
    end: Tensor
    written: Tensor


class Planner:
    """Greedy decoding with a static cache.

    Attributes:
        look_every: Tokens between two looks for the end.
    """

    def __init__(self, language: Language) -> None:
        self.language = language
        self.look_every = LOOK_EVERY if language.embedding.is_cuda else 1

    def write(
        self,
        run: CudaGraphs | Directly,
        features: Tensor,
        ids: Tensor,
        length: Tensor,
        *,
        room: int,
        limit: int,
        end: int | None,
        padded: bool,
    ) -> list[int]:
        """Writes a text, always the most probable token next.

        Args:
            run: Runs what is done on the device.
            features: (F, W) of the pictures.
            ids: (1, L) the prompt.
            length: (1,) of the prompt.
            room: Tokens that a cache of this shape holds, whatever the limit.
            limit: Most tokens.
            end: Ends the text; None for none that does.
            padded: Whether the prompt is shorter than L.

        Returns:
            The tokens before the end token, or before the limit.
        """
        key = (len(features), ids.shape[1], padded)
        total = len(features) + ids.shape[1]
        state = run.state(key, lambda: self.decoding(total, room))
        begin = functools.partial(self.begin, state, padded=padded)
        advance = functools.partial(self.advance, state)
        run(("begin", *key), begin, features, ids, length)
        indices = torch.arange(limit, device=ids.device)
        done = 1
        while True:
            written: list[int] = state.written[:done].tolist()
            if end in written:
                return written[: written.index(end)]
            if done == limit:
                return written
            until = min(limit, done + self.look_every)
            for index in range(done, until):
                run(("advance", *key), advance, indices[index : index + 1])
            done = until

    def decoding(self, total: int, limit: int) -> Decoding:
        """Tensors for a prefix of ``total`` tokens and ``limit`` behind it."""
        size, embedding = self.language.size, self.language.embedding
        shape = (size.depth, 2, 1, size.kv_heads, total + limit, size.head_dim)
        return Decoding(
            cache=embedding.new_empty(shape),
            there=embedding.new_empty((1, 1, 1, total + limit), dtype=torch.bool),
            end=embedding.new_empty((1,), dtype=torch.long),
            written=embedding.new_empty((limit,), dtype=torch.long),
        )

    def begin(
        self, state: Decoding, features: Tensor, ids: Tensor, length: Tensor, *, padded: bool
    ) -> tuple[Tensor, ...]:
        """Runs the prefix and writes the first token.

        Args:
            state: Is written.
            features: (F, W) of the pictures.
            ids: (1, L) the prompt.
            length: (1,) of the prompt.
            padded: Whether it is shorter than L.
        """

        def store(number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            state.cache[number, 0, :, :, : keys.shape[2]] = keys
            state.cache[number, 1, :, :, : keys.shape[2]] = values
            return keys, values

        # What is masked is multiplied by 0, and must not be what another call left: NaN, perhaps.
        state.cache[..., -len(state.written) :, :] = 0.0
        last, end, _ = self._prefix(features, ids, length, store, padded=padded)
        places = torch.arange(state.there.shape[-1], device=end.device)
        state.there.copy_((places < end)[None, None, None])
        state.end.copy_(end)
        state.written[:1] = self.language.logits(last[0]).argmax(-1)
        return ()

    def advance(self, state: Decoding, index: Tensor) -> tuple[Tensor, ...]:
        """Writes token ``index`` (1,), from 1; the same however often it runs."""
        total = state.there.shape[-1] - len(state.written)
        slot = total + index - 1
        places = torch.arange(state.there.shape[-1], device=index.device)
        mask = state.there | ((places >= total) & (places <= slot))

        def store(number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            state.cache[number, 0].index_copy_(2, slot, keys)
            state.cache[number, 1].index_copy_(2, slot, values)
            return state.cache[number, 0], state.cache[number, 1]

        x = self.language.embed(state.written[index - 1][None])
        hidden = self.language.run(x, (state.end + index - 1)[None], mask, store)
        assert hidden is not None
        state.written.index_copy_(0, index, self.language.logits(hidden[0]).argmax(-1))
        return ()

    def score(
        self,
        features: Tensor,
        ids: Tensor,
        length: Tensor,
        texts: Tensor,
        counts: Tensor,
        *,
        padded: bool,
    ) -> tuple[Tensor, ...]:
        """Log-probabilities of texts behind one prefix, which is run once.

        Args:
            features: (F, W) of the pictures.
            ids: (1, L) the prompt.
            length: (1,) of the prompt.
            texts: (N, S), end tokens included.
            counts: (N,) tokens of the texts.
            padded: Whether the prompt is shorter than L.

        Returns:
            (N,) float32.
        """
        prefix: list[tuple[Tensor, Tensor]] = []

        def keep(_: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            prefix.append((keys, values))
            return keys, values

        last, end, mask = self._prefix(features, ids, length, keep, padded=padded)
        number, count = texts.shape

        def append(layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            before_keys, before_values = prefix[layer]
            return (
                torch.cat([before_keys.expand(number, -1, -1, -1), keys], dim=2),
                torch.cat([before_values.expand(number, -1, -1, -1), values], dim=2),
            )

        places = torch.arange(count, device=texts.device)
        total = len(features) + ids.shape[1]
        causal = places[:, None] >= places
        before = causal.new_ones(count, total) if mask is None else mask[0, 0].expand(count, -1)
        hidden = self.language.run(
            self.language.embed(texts),
            (end + places).expand(number, -1),
            torch.cat([before, causal], dim=1)[None, None],
            append,
        )
        assert hidden is not None
        logits = self.language.logits(torch.cat([last.expand(number, -1, -1), hidden[:, :-1]], 1))
        loss = functional.cross_entropy(logits.flatten(0, 1), texts.flatten(), reduction="none")
        loss = loss.view_as(texts)
        return (-torch.where(places < counts[:, None], loss, 0.0).sum(1),)

    def _prefix(
        self, features: Tensor, ids: Tensor, length: Tensor, store: Store, *, padded: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The hidden state of the prompt's last token, where it ends, and what is there."""
        x = torch.cat([features[None], self.language.embed(ids)], dim=1)
        positions = torch.arange(x.shape[1], device=ids.device)[None]
        end = len(features) + length
        mask = (positions < end)[:, None, None] if padded else None
        last = self.language.run(x, positions, mask, store, rows=end - 1)
        assert last is not None
        return last, end, mask
