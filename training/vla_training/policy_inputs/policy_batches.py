# SPDX-License-Identifier: Apache-2.0
"""Batches of a dataset as a pi0.5 learns from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vla_nodes.models.flow import TIME_ALPHA, TIME_BETA, TIME_OFFSET, TIME_SCALE
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.padding import pad
from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch, Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.prompts import actor_prompt, planner_prompt, state_bins
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import UNLABELLED
from vla_training.data.loading.collation import Batch
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.planner_target import fast_ids, planner_target

Rngs = Sequence[np.random.Generator]


@dataclass(frozen=True, eq=False)
class FlowDraws:
    """Noise and times of a batch, F of each item, sample by sample.

    Attributes:
        noise: (F·B, T, A) float32.
        times: (F·B,) float32.
    """

    noise: Tensor
    times: Tensor


@dataclass(frozen=True, eq=False)
class PolicyBatches:
    """Makes a model's batches.

    Attributes:
        config: Of the model.
        tokenizer: Its own.
        normalization: Likewise.
        cameras: In the model's order.
        plans: Whether the planner learns.
        acts: Whether the expert learns.
        fast: Makes action tokens for the planner to write behind the subtask; None for none.
        advantage_dropout: Share of labelled items whose label the prompt does not tell.
        flow_samples: Noises and times for each item, F.
    """

    config: Pi05Config
    tokenizer: Tokenizer
    normalization: Normalization
    cameras: tuple[str, ...]
    plans: bool
    acts: bool
    fast: FastTokenizer | None = None
    advantage_dropout: float = 0.3
    flow_samples: int = 1

    def make(
        self, batch: Batch, rngs: Rngs, device: torch.device | str
    ) -> tuple[Pi05Batch, FlowDraws | None]:
        """Makes a batch, and what the expert's loss draws.

        Args:
            batch: B items.
            rngs: One for each of them.
            device: For all that is made.

        Raises:
            DataError: A text has more tokens than the model takes.
        """
        bins = self._bins(batch)
        parts: dict[str, Tokens | ActionTarget] = {}
        if self.plans:
            parts["planner"] = self._prompts(map(planner_prompt, batch.task, bins), device)
            parts["target"] = self._targets(batch, device)
        if self.acts:
            texts = [sub or task for sub, task in zip(batch.subtask, batch.task, strict=True)]
            positive = self._positive(batch, rngs)
            parts["actor"] = self._prompts(map(actor_prompt, texts, bins, positive), device)
            parts["action"] = self._action(batch, rngs, device)
        views = self._views(batch.to(device))
        return Pi05Batch(views, **parts), self._draws(rngs, device) if self.acts else None  # type: ignore[arg-type]

    def _bins(self, batch: Batch) -> npt.NDArray[np.int64]:
        state = self.normalization.state.normalise(batch.state.numpy())
        if self.config.pad_state:
            state = _padded(state, self.config.max_state_dim)
        return state_bins(state)

    def _prompts(self, texts: Iterable[str], device: torch.device | str) -> Tokens:
        rows = []
        for text in texts:
            rows.append([self.tokenizer.bos_id, *self.tokenizer.encode(text)])
            _check_length("prompt", text, len(rows[-1]), self.config.max_prompt_tokens)
        return self._tokens(rows, device)

    def _targets(self, batch: Batch, device: torch.device | str) -> Tokens:
        rows = [self.tokenizer.encode(text) for text in batch.subtask]
        for text, row in zip(batch.subtask, rows, strict=True):
            _check_length("subtask", text, len(row) + 1, self.config.max_subtask_tokens)
        if self.fast is None:
            return self._tokens([[*row, self.tokenizer.eos_id] for row in rows], device)
        chunks = self.normalization.action.normalise(batch.actions.numpy())
        vocabulary = self.config.vocabulary
        actions = [fast_ids(self.fast.encode(chunk), vocabulary) for chunk in chunks]
        targets = [
            planner_target(row, ids, self.tokenizer) for row, ids in zip(rows, actions, strict=True)
        ]
        return self._tokens(targets, device)

    def _tokens(self, rows: Sequence[Sequence[int]], device: torch.device | str) -> Tokens:
        ids, mask = pad(rows, self.tokenizer.pad_id)
        return Tokens(ids.to(device), mask.to(device))

    def _positive(self, batch: Batch, rngs: Rngs) -> list[bool | None]:
        """What prompts tell of the advantage; every generator is asked, labelled or not."""
        told = [rng.random() >= self.advantage_dropout for rng in rngs]
        labels = batch.positive.tolist()
        return [
            bool(label) if tell and label != UNLABELLED else None
            for tell, label in zip(told, labels, strict=True)
        ]

    def _action(self, batch: Batch, rngs: Rngs, device: torch.device | str) -> ActionTarget:
        actions = self.normalization.action.normalise(batch.actions.numpy())
        latest = self.config.max_delay
        delay = [rng.integers(latest + 1) for rng in rngs] if latest else None
        return ActionTarget(
            actions=torch.from_numpy(_padded(actions, self.config.max_action_dim))
            .float()
            .to(device),
            is_pad=batch.action_is_pad.to(device),
            dims=actions.shape[-1],
            delay=None if delay is None else torch.tensor(delay, device=device),
        )

    def _draws(self, rngs: Rngs, device: torch.device | str) -> FlowDraws:
        shape = (self.flow_samples, self.config.chunk, self.config.max_action_dim)
        noise = np.stack([rng.standard_normal(shape, np.float32) for rng in rngs], axis=1)
        beta = np.stack(
            [rng.beta(TIME_ALPHA, TIME_BETA, self.flow_samples) for rng in rngs], axis=1
        )
        times = (beta * TIME_SCALE + TIME_OFFSET).astype(np.float32)
        return FlowDraws(
            noise=torch.from_numpy(noise).flatten(0, 1).to(device),
            times=torch.from_numpy(times).flatten().to(device),
        )

    def _views(self, batch: Batch) -> Views:
        """Cameras in the model's order; one that no item of the batch has is black and absent."""
        size, device = self.config.image_size, batch.state.device
        absent = torch.full((len(batch), 3, size, size), -1.0, device=device)
        unseen = torch.zeros(len(batch), dtype=torch.bool, device=device)
        images, masks = batch.images, batch.image_masks
        return Views(
            pixels=torch.stack(
                [fit_pictures(images[c], size) if c in images else absent for c in self.cameras],
                dim=1,
            ),
            mask=torch.stack([masks.get(camera, unseen) for camera in self.cameras], dim=1),
        )


def _padded(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """(..., D) to (..., width), with zeros."""
    return np.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, width - values.shape[-1])])


def _check_length(what: str, text: str, count: int, limit: int) -> None:
    if count > limit:
        raise DataError(
            f"the {what} {text[:60]!r}... has {count} tokens, expected at most {limit}; shorten "
            f"it, or take a model with a larger max_{what}_tokens"
        )
