# SPDX-License-Identifier: Apache-2.0
"""The recipe of the value functions: how far tasks have come, on labelled episodes."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from vla_nodes.models.c51 import expected_value, value_loss
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.value_checkpoint import ValueInterface, write_value_checkpoint
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.loading.value_set import ValueItem, ValueSet, history_rows, history_steps
from vla_training.data.vqa.batches import VqaBatch, vqa_batch
from vla_training.data.vqa.questions import Questions
from vla_training.data.vqa.sources import read_questions
from vla_training.evaluation.value_features import FeatureCache, open_features
from vla_training.recipes.alignment import loop_of_epochs, vqa_loss
from vla_training.recipes.co_training import CoTraining, MixedBatch, collate_mixed
from vla_training.recipes.job import Job, Prepared
from vla_training.recipes.lora import merged_weights
from vla_training.recipes.run_folder import claim, stopped
from vla_training.recipes.training_loop import train
from vla_training.recipes.value_batches import ValueBatches, ValueInputs
from vla_training.recipes.value_data import ValueData, lacking_outcome, read_value_data
from vla_training.recipes.value_model import (
    Model,
    digests,
    make_model,
    read_value_beginning,
)
from vla_training.recipes.value_settings import ValueSettings


def train_value(settings: ValueSettings) -> str:
    """Trains a value function; ``out/checkpoint`` then has the best weights by validation loss.

    Returns:
        What was done, for people.

    Raises:
        TrainingError: The settings do not fit folder, data or model, or training failed.
        DataError: The data cannot be used.
        CheckpointError: The weights to begin from cannot be used.
        KeyboardInterrupt: It was interrupted, after its state was saved.
        OSError: The disk refused.
    """
    out = settings.out
    beginning = read_value_beginning(settings.arch, settings.model)
    data = _in_order(read_value_data(settings.data), settings, beginning.interface)
    if warning := lacking_outcome(data.training):
        PartialState().print(f"vla-train: {warning}", file=sys.stderr)
    claim(out, settings, resume=settings.resume)
    model = make_model(beginning, settings.model, settings.loop.seed)
    questions = _questions(settings)
    training, validation = _items(settings, data, model, questions)
    loop = settings.loop
    if settings.epochs:
        # Of the frames alone: where there are many questions, the items repeat them.
        loop = loop_of_epochs(loop, settings.epochs, sum(map(len, data.training)))

    def export() -> None:
        write_value_checkpoint(
            out / "checkpoint",
            merged_weights(model),
            beginning.config,
            data.interface,
            beginning.tokenizer,
        )

    job = Job(
        model=_Learner(model),
        objective=ValueObjective(
            settings,
            ValueBatches(
                config=beginning.config,
                tokenizer=beginning.tokenizer,
                cameras=data.interface.cameras,
                subtasks=settings.data.subtasks,
                nearest=settings.targets == "nearest",
            ),
        ),
        items=training,
        validation=validation,
        augmentation=(
            Augmentation() if settings.data.augment and not settings.data.features else None
        ),
        export=export,
        identity={
            **digests(beginning, data.interface),
            "targets": data.targets,
            **({"questions": questions.digest} if questions else {}),
        },
        collate=collate_mixed,
        keep_best=True,
    )
    ended = train(job, loop, out, resume=settings.resume)
    if ended.interrupted:
        raise KeyboardInterrupt(stopped(out, ended, loop))
    return (
        f"{out / 'checkpoint'}: {settings.arch}, {ended.step} of {loop.steps} steps, lowest "
        f"validation loss {ended.best:.4g}"
    )


def _in_order(data: ValueData, settings: ValueSettings, before: ValueInterface | None) -> ValueData:
    """The data with cameras in the order that the weights to begin from know them in."""
    cameras = data.interface.cameras
    if settings.data.cameras or not before or set(before.cameras) != set(cameras):
        return data
    return replace(data, interface=replace(data.interface, cameras=before.cameras))


def _questions(settings: ValueSettings) -> Questions | None:
    told = settings.questions
    return read_questions(told.questions, told.pictures) if told.questions else None


def _items(
    settings: ValueSettings, data: ValueData, model: Model, questions: Questions | None
) -> tuple[CoTraining, CoTraining]:
    """What is learnt from, and what chooses the checkpoint."""
    config, share = model.config, settings.questions.questions_share

    def frames(sets: Sequence[TrainingSet]) -> Dataset[ValueItem]:
        return ConcatDataset(
            ValueSet(one, config.history, config.history_step, _features(settings, one, model))
            for one in sets
        )

    asked = questions.split(settings.data.split_seed) if questions else (None, None)
    return (
        CoTraining(frames(data.training), asked[0], share),
        CoTraining(frames(data.validation), asked[1], share),
    )


def _features(settings: ValueSettings, frames: TrainingSet, model: Model) -> FeatureCache | None:
    """What the frozen encoder makes of the pictures, on disk; None to encode them in each step."""
    if settings.data.features is None:
        return None
    table, config = frames.table, model.config
    steps = history_steps(config.history, config.history_step, frames.schema.fps)
    return open_features(
        model,
        frames.root,
        table,
        tuple(frames.schema.cameras),
        np.unique(history_rows(table, frames.rows, steps)),
        settings.data.features,
        batch_size=settings.loop.batch_size,
        workers=settings.loop.workers,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


class _Learner(nn.Module):
    """A value function as training runs it: from pictures, or their features, to losses.

    All of it is within one call, as several processes need it to be.

    Args:
        model: The value function.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: ValueInputs, questions: VqaBatch | None) -> dict[str, Tensor]:
        """Sums of losses and errors, by name."""
        views = values.views
        if views.ndim == 5:
            views = self.model.encode(views.flatten(0, 1)).unflatten(0, values.mask.shape)
        logits = self.model(views, values.mask, values.ids, values.id_mask)
        # Of what was predicted and what was to be, both as expectations.
        error = (
            expected_value(logits) - expected_value(values.targets.clamp(min=1e-30).log())
        ).abs()
        losses = {
            "value": value_loss(logits, values.targets).sum(),
            "mae": error.detach().sum(),
        }
        if questions is not None:
            assert isinstance(self.model, StitchedValue)  # others have no language head
            losses["questions"] = vqa_loss(self.model, questions)[0]
        return losses


class ValueObjective:
    """Cross entropy of values, and of answers to questions; see ``job.Objective``."""

    def __init__(self, settings: ValueSettings, batches: ValueBatches) -> None:
        self._batches = batches
        self.weights: Mapping[str, float] = {"value": 1.0}
        if settings.questions.questions:
            self.weights = {"value": 1.0, "questions": settings.questions.questions_weight}

    def prepare(
        self, batch: MixedBatch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The model's batch, and how many frames and tokens of answers it has."""
        values = self._batches.make(batch.values, rngs, device)
        counts: dict[str, Tensor | float] = {"value": len(batch), "mae": len(batch)}
        questions = None
        if "questions" in self.weights:
            counts["questions"] = 0.0
        if batch.questions:
            made = vqa_batch(batch.questions, self._batches.tokenizer, self._batches.config)
            questions = made.to(device)
            counts["questions"] = made.target_mask.sum()
        return Prepared((values, questions), counts)

    def losses(
        self, model: nn.Module, inputs: tuple[ValueInputs, VqaBatch | None]
    ) -> dict[str, Tensor]:
        """Runs the model."""
        losses = model(*inputs)
        zero = losses["value"].new_zeros(())
        return {**dict.fromkeys(self.weights, zero), **losses}
