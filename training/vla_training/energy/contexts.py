# SPDX-License-Identifier: Apache-2.0
"""Contexts of recorded frames, by the policy that an energy model belongs to, kept on disk.

A context is the policy's last hidden states of pictures and prompt: with three pictures and 200
tokens of the published pi0.5 968 x 2048 numbers, 4 MB in bfloat16. Nothing is kept but what was
asked for, and the policy sees no frame twice. What it draws for a frame is made with it, from
the same run of its prefix.
"""

import hashlib
import math
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_training.data.array_store import ArrayStore, check_room
from vla_training.data.errors import DataError
from vla_training.data.loading.collation import Batch, collate
from vla_training.data.loading.loaders import evaluation_loader
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.loading.video_clips import clips_digest
from vla_training.energy.chunk_table import Rows
from vla_training.energy.energy_source import EnergySource
from vla_training.energy.frozen_policy import FrozenPolicy
from vla_training.energy.policy_actions import draw_layers, draw_samples
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.policy_inputs.policy_frames import frame_noise, show

HIDDEN, SAMPLES, LAYERS = "hidden states", "chunks", "chunks of fewer layers"

_FORMAT = 1  # another one wherever frames are shown or stored otherwise
_BITS, _HALF = np.dtype("<i2"), np.dtype("<f2")  # NumPy has no bfloat16
_BLOCK = 4096  # bytes; of a file with gaps, what is written takes whole blocks
_TRIED = 16  # frames whose length is taken for that of all


class Contexts:
    """Of the frames of a dataset, by row of its table.

    What is kept has a name that is a digest of all that it follows from: the policy, the videos
    and where in them episodes lie, states and texts. So contexts of another policy or dataset
    are never taken for these.

    Attributes:
        frames: All episodes of the dataset.

    Args:
        policy: Its own.
        frames: All episodes of the dataset.
        normalization: The policy's, with the dataset's names.
        source: What is wanted, and where it is kept.

    Raises:
        DataError: The folder cannot be used, or the expert has one layer and chunks of fewer
            are wanted.
    """

    def __init__(
        self,
        policy: FrozenPolicy,
        frames: TrainingSet,
        normalization: Normalization,
        source: EnergySource,
    ) -> None:
        self.frames, self._source = frames, source
        self._normalization = normalization
        config, count = policy.checkpoint.config, len(frames.table.episode)
        tokens = len(frames.schema.cameras) * config.image_tokens + config.max_prompt_tokens
        identity = {
            "format": _FORMAT,
            "policy": policy.digest,
            "dtype": str(policy.dtype),
            "frames": _frames_digest(frames),
        }

        def store(what: str, dtype: np.dtype, *shape: int, **more: int) -> ArrayStore:
            about = {**identity, "what": what, **more}
            return ArrayStore(source.folder, about, dtype, count, shape)

        width, seed = config.language.width, source.seed
        chunk = (config.chunk, len(frames.schema.action_names))
        self._stores = {HIDDEN: store(HIDDEN, _BITS, tokens, width)}
        if source.samples:
            self._stores[SAMPLES] = store(SAMPLES, _HALF, source.samples, *chunk, seed=seed)
        if source.layers:
            layers = config.expert.depth - 1
            if not layers:
                raise DataError(
                    f"the expert of {policy.checkpoint.folder} has one layer: expected two at "
                    "least, to draw chunks with fewer"
                )
            self._stores[LAYERS] = store(LAYERS, _HALF, layers, *chunk, seed=seed)

    def missing(self, rows: Rows) -> Rows:
        """Those of the rows, ascending and each once, of which something is not there yet."""
        rows = np.unique(rows)
        return rows[~np.all([store.done(rows) for store in self._stores.values()], axis=0)]

    def fill(self, policy: FrozenPolicy, rows: Rows) -> None:
        """Shows the policy what it has not seen; interrupted, it goes on there the next time.

        Processes that fill the same contexts take turns, and the later finds them made.

        Args:
            policy: Its own.
            rows: Of the table, among those of ``frames``.

        Raises:
            CheckpointError: The policy gives numbers that are not finite, or cannot be loaded.
            DataError: The disk has no room, a picture cannot be read, or a text has more tokens
                than the policy takes.
        """
        with self._stores[HIDDEN].sole_access():
            missing = self.missing(rows)
            if not missing.size:
                return
            batches = self._batches(policy)
            self._check_room(policy, batches, missing)
            begin = time.perf_counter()
            self._run(policy, batches, missing)
            seconds = time.perf_counter() - begin
            text = f"the policy saw {len(missing)} frames in {seconds:.0f} s"
            print(f"{text}, {len(missing) / seconds:.0f} a second", file=sys.stderr)

    def read(self, row: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What there is of a frame.

        Returns:
            Hidden states (S, D) bfloat16; samples (M, T, A) and layers (L, T, A) float32.

        Raises:
            DataError: It was never filled.
        """
        hidden = torch.from_numpy(self._stores[HIDDEN].read_one(row)).view(torch.bfloat16)
        samples, layers = (
            torch.from_numpy(self._stores[name].read_one(row)).float()
            if name in self._stores
            else None
            for name in (SAMPLES, LAYERS)
        )
        return hidden, samples, layers

    def _batches(self, policy: FrozenPolicy) -> PolicyBatches:
        return PolicyBatches(
            config=policy.checkpoint.config,
            tokenizer=policy.checkpoint.tokenizer,
            normalization=self._normalization,
            cameras=tuple(self.frames.schema.cameras),
            plans=False,
            acts=True,
            advantage_dropout=0.0,
        )

    def _check_room(self, policy: FrozenPolicy, batches: PolicyBatches, rows: Rows) -> None:
        """As if all contexts were as long as the longest of some."""
        some = self._items(rows[:: -(-len(rows) // _TRIED)])
        batch = collate([self.frames[item] for item in some])
        shown = show(policy.checkpoint, batches, batch, "cpu")
        assert shown.actor is not None
        tokens = policy.checkpoint.config.image_tokens * shown.views.mask.sum(1)
        longest = int((tokens + shown.actor.mask.sum(1)).max())
        needed = 0
        for name, store in self._stores.items():
            shape = (longest, *store.shape[1:]) if name == HIDDEN else store.shape
            blocks = -(-math.prod(shape) * _BITS.itemsize // _BLOCK)
            needed += int((~store.done(rows)).sum()) * blocks * _BLOCK
        folder = self._stores[HIDDEN].folder.parent
        check_room(folder, f"contexts of {len(rows)} frames", needed)

    def _items(self, rows: Rows) -> list[int]:
        return np.searchsorted(self.frames.rows, rows).tolist()

    def _run(self, policy: FrozenPolicy, batches: PolicyBatches, rows: Rows) -> None:
        source, place = self._source, 0
        frames = Subset(self.frames, self._items(rows))
        loader = evaluation_loader(frames, source.batch_size, workers=source.workers)
        quiet = not sys.stderr.isatty()
        with ExitStack() as stack:
            write = {n: stack.enter_context(s.writing()) for n, s in self._stores.items()}
            bar = stack.enter_context(
                tqdm(total=len(rows), desc="contexts", unit="frame", leave=False, disable=quiet)
            )
            for batch in loader:
                ours = rows[place : place + len(batch)]
                made = self._make(policy, batches, batch)
                for name, store in self._stores.items():
                    absent = np.flatnonzero(~store.done(ours))
                    write[name](ours[absent], [made[name][one] for one in absent])
                place += len(batch)
                bar.update(len(batch))

    @torch.no_grad()
    def _make(
        self, policy: FrozenPolicy, batches: PolicyBatches, batch: Batch
    ) -> dict[str, list[npt.NDArray[Any]]]:
        """What each store is to hold of each frame."""
        model, source = policy.model, self._source
        shown = show(policy.checkpoint, batches, batch, policy.device)
        assert shown.actor is not None
        pictures = model.embed_pictures(shown.views)
        hidden, there, prefix = model.prefix(shown.views, pictures, shown.actor)
        made = {HIDDEN: hidden.bfloat16()}
        frames = zip(batch.episode_index.tolist(), batch.frame_index.tolist(), strict=True)
        noise = frame_noise(list(frames), max(1, source.samples), model.config, source.seed)
        noise, joints = noise.to(policy.device), len(self.frames.schema.action_names)
        if source.samples:
            made[SAMPLES] = draw_samples(model, prefix, there, noise)[..., :joints].half()
        if source.layers:
            made[LAYERS] = draw_layers(model, prefix, there, noise[0])[..., :joints].half()
        for name, values in made.items():
            if not bool(values.isfinite().all()):
                raise CheckpointError(
                    f"{policy.checkpoint.folder} gives {name} that are not finite in {values.dtype}"
                )
        bits, drawn = made.pop(HIDDEN).cpu().view(torch.int16), made
        return {
            HIDDEN: [row[seen].numpy() for row, seen in zip(bits, there.cpu(), strict=True)],
            **{name: list(values.cpu().numpy()) for name, values in drawn.items()},
        }


def _frames_digest(frames: TrainingSet) -> str:
    """All of a dataset that the policy's hidden states follow from."""
    table = frames.table
    digest = hashlib.sha256()
    for camera, clips in frames.clips.items():
        content = clips_digest(frames.root, frames.schema.fps, clips)
        digest.update(f"{camera!r} {content}\n".encode())
    for words in (table.task, table.subtask):
        digest.update(f"{words.texts!r}\n".encode())
        digest.update(np.ascontiguousarray(words.codes).tobytes())
    for column in (table.episode, table.frame, table.state):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
