# SPDX-License-Identifier: Apache-2.0
"""The recipe of the energy model: which chunks fit what a policy sees."""

import numpy as np
import torch
from torch.utils.data import Subset

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_checkpoint import write_energy_checkpoint
from vla_training.energy.energy_data import EnergySets, open_energy_sets
from vla_training.energy.energy_set import EnergySet, collate_energy
from vla_training.energy.energy_source import EnergySource
from vla_training.recipes.digests import digest
from vla_training.recipes.energy_objective import EnergyLearner, EnergyObjective
from vla_training.recipes.energy_settings import EnergySettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.job import Job
from vla_training.recipes.run_folder import claim, stopped
from vla_training.recipes.run_state import newest_state
from vla_training.recipes.training_loop import train


def train_energy(settings: EnergySettings) -> str:
    """Trains an energy model; ``out/checkpoint`` then has the best weights by validation loss.

    Returns:
        What was done, for people.

    Raises:
        TrainingError: The settings do not fit folder, data or model, or training failed.
        DataError: The data cannot be used.
        CheckpointError: The policy cannot be used.
        KeyboardInterrupt: It was interrupted, after its state or its contexts were saved.
        OSError: The disk refused.
    """
    out, loop = settings.out, settings.loop
    claim(out, settings, resume=settings.resume)
    sets = _open_sets(settings)
    training, validation = sets.training, sets.validation
    assert training is not None  # settings refuse shares of 0
    assert validation is not None
    _check_texts(settings, training)
    torch.manual_seed(loop.seed)
    model = EnergyModel(settings.model.config(sets.state_dim, sets.action_dim))
    # In a batch of one episode all chunks resemble each other: mixed as those of training are.
    mixed = np.random.default_rng(loop.seed).permutation(len(validation))

    def export() -> None:
        write_energy_checkpoint(out / "checkpoint", model, model.config, sets.interface)

    job = Job(
        model=EnergyLearner(model, settings.loss.swaps),
        objective=EnergyObjective(settings.loss, training.chunks),
        items=training,
        validation=Subset(validation, mixed.tolist()),
        validation_objective=EnergyObjective(settings.loss, validation.chunks),
        augmentation=None,
        export=export,
        identity={
            "policy": sets.interface.policy,
            "chunks": digest(b"".join(map(_content, (training, validation)))),
        },
        collate=collate_energy,
        keep_best=True,
    )
    # Interrupted while the policy looked at the frames, it has no state yet.
    begun = newest_state(out / "state") is not None
    ended = train(job, loop, out, resume=settings.resume and begun)
    if ended.interrupted:
        raise KeyboardInterrupt(stopped(out, ended, loop))
    return (
        f"{out / 'checkpoint'}: energy model, {ended.step} of {loop.steps} steps, lowest "
        f"validation loss {ended.best:.4g}; vla-calibrate gives it its threshold"
    )


def _open_sets(settings: EnergySettings) -> EnergySets:
    data, loss, loop = settings.data, settings.loss, settings.loop
    source = EnergySource(
        policy=data.policy,
        dataset=data.dataset,
        folder=data.contexts or settings.out / "contexts",
        stride=data.stride,
        samples=loss.samples if "samples" in loss.negatives else 0,
        layers="layers" in loss.negatives,
        failures=data.failures,
        batch_size=loop.batch_size,
        workers=loop.workers,
        bf16=loop.bf16,
    )
    return open_energy_sets(source, data.split_seed, data.shares, ("training", "validation"))


def _check_texts(settings: EnergySettings, training: EnergySet) -> None:
    texts = np.unique(training.chunks.text)
    if "other-task" in settings.loss.negatives and len(texts) < 2:
        raise TrainingError(
            f"all training frames are of {training.chunks.texts[texts[0]]!r:.100}, and --negatives "
            "other-task takes chunks of other tasks and subtasks; leave it out"
        )


def _content(part: EnergySet) -> bytes:
    """What the negatives and items of a split are made of."""
    table = part.chunks
    arrays = (table.actions, table.end, table.episode, table.text, part.rows)
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
