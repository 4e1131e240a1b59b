# SPDX-License-Identifier: Apache-2.0
"""The recipe of the alignment: a projector that tells a language model what is in a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.value_checkpoint import write_value_checkpoint
from vla_training.data.vqa.batches import VqaBatch, vqa_batch
from vla_training.data.vqa.sources import read_questions
from vla_training.recipes.alignment_model import make_stitched
from vla_training.recipes.alignment_settings import AlignmentSettings
from vla_training.recipes.digests import file_digests
from vla_training.recipes.job import Job, Prepared
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.run_folder import claim, stopped
from vla_training.recipes.training_loop import train

LOSS = "questions"


def train_alignment(settings: AlignmentSettings) -> str:
    """Aligns a stitched model; ``out/checkpoint`` then has the best weights by validation loss.

    Returns:
        What was done, for people.

    Raises:
        TrainingError: The settings do not fit folder or model, or training failed.
        DataError: The questions or pictures cannot be used.
        CheckpointError: What to begin from cannot be used.
        KeyboardInterrupt: It was interrupted, after its state was saved.
        OSError: The disk refused.
    """
    out = settings.out
    questions = read_questions(settings.questions, settings.pictures)
    training, validation = questions.split(settings.split_seed, settings.validation)
    loop = loop_of_epochs(settings.loop, settings.epochs, len(training))
    claim(out, settings, resume=settings.resume)
    model, tokenizer = make_stitched(settings)

    def export() -> None:
        write_value_checkpoint(out / "checkpoint", model, model.config, None, tokenizer)

    job = Job(
        model=_Answering(model),
        objective=VqaObjective(),
        items=training,
        validation=validation,
        augmentation=None,
        export=export,
        identity={"questions": questions.digest, **file_digests(tokenizer.write)},
        collate=partial(vqa_batch, tokenizer=tokenizer, config=model.config),
        keep_best=True,
    )
    ended = train(job, loop, out, resume=settings.resume)
    if ended.interrupted:
        raise KeyboardInterrupt(stopped(out, ended, loop))
    return (
        f"{out / 'checkpoint'}: aligned, {ended.step} of {loop.steps} steps, lowest validation "
        f"loss {ended.best:.4g}"
    )


def loop_of_epochs(loop: LoopSettings, epochs: float, items: int) -> LoopSettings:
    """The settings of a loop that ends after so many epochs, or before.

    Its rate falls until then, and rises for a tenth of it at most.

    Args:
        loop: Its steps and decay bound those of the epochs.
        epochs: Positive.
        items: That are learnt in an epoch.
    """
    steps = min(loop.steps, ceil(epochs * items / loop.batch_size))
    decay = min(loop.decay, steps)
    return replace(loop, steps=steps, decay=decay, warmup=min(loop.warmup, decay // 10))


def vqa_loss(model: StitchedValue, batch: VqaBatch) -> tuple[Tensor, Tensor]:
    """Cross entropy of answers, and of nothing else.

    Logits are made only where there is something to learn: those of all places of a large model
    take gigabytes.

    Args:
        model: Its token embedding is the language head that writes the answers.
        batch: B questions.

    Returns:
        The sum over the tokens of all answers, nat, and how many they are.
    """
    features = model.encode(batch.pixels)[:, None].expand(-1, batch.mask.shape[1], -1, -1)
    hidden, _ = model.hidden(features, batch.mask, batch.ids, batch.id_mask)
    learnt = batch.target_mask[:, 1:]  # each token is told by the place before it
    logits = functional.linear(hidden[:, :-1][learnt], model.language.embed_tokens.weight)
    loss = functional.cross_entropy(logits.float(), batch.ids[:, 1:][learnt], reduction="sum")
    return loss, learnt.sum()


class VqaObjective:
    """Cross entropy of answers; see ``job.Objective``."""

    weights: Mapping[str, float] = {LOSS: 1.0}

    def prepare(
        self, batch: VqaBatch, _rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The batch, and how many tokens are learnt from it."""
        return Prepared(batch.to(device), {LOSS: batch.target_mask.sum()})

    def losses(self, model: nn.Module, inputs: VqaBatch) -> dict[str, Tensor]:
        """Runs the model."""
        return {LOSS: model(inputs)}


class _Answering(nn.Module):
    """A stitched model as an alignment runs it, within one call, as several processes need it.

    Args:
        value: The model.
    """

    def __init__(self, value: StitchedValue) -> None:
        super().__init__()
        self.value = value

    def forward(self, batch: VqaBatch) -> Tensor:
        """The sum of the loss."""
        return vqa_loss(self.value, batch)[0]
