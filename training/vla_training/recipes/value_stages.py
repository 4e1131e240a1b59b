# SPDX-License-Identifier: Apache-2.0
"""Both stages of a stitched value function: its alignment on questions, then its values."""

from dataclasses import replace

from vla_training.recipes.alignment import train_alignment
from vla_training.recipes.alignment_settings import AlignmentSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.run_folder import claim
from vla_training.recipes.run_state import newest_state
from vla_training.recipes.value import train_value
from vla_training.recipes.value_settings import ValueSettings


def train_both(settings: ValueSettings) -> str:
    """Trains in ``out/alignment``, then in ``out/value`` from what came out.

    The alignment has its own defaults of the loop, but for seed and workers.

    Returns:
        What was done, for people.

    Raises:
        TrainingError: As of ``train_alignment`` and ``train_value``, like all else they raise.
    """
    aligned, valued = settings.out / "alignment", settings.out / "value"
    begun = [newest_state(folder / "state") is not None for folder in (aligned, valued)]
    if any(begun) and not settings.resume:
        raise TrainingError(
            f"{settings.out} holds a training already; --resume goes on with it, another --out "
            "begins a new one"
        )
    claim(settings.out, settings, resume=settings.resume)
    model, told = settings.model, settings.questions
    assert told.questions is not None  # settings without are refused
    first = AlignmentSettings(
        out=aligned,
        questions=told.questions,
        pictures=told.pictures,
        split_seed=settings.data.split_seed,
        siglip=model.siglip,
        gemma=model.gemma,
        init=model.init,
        resume=begun[0],
    )
    loop = replace(first.loop, seed=settings.loop.seed, workers=settings.loop.workers)
    done = train_alignment(replace(first, loop=loop))
    second = replace(
        settings,
        out=valued,
        stage="value",
        model=replace(model, init=str(aligned / "checkpoint"), siglip=None, gemma=None),
        resume=begun[1],
    )
    return f"{done}\n{train_value(second)}"
