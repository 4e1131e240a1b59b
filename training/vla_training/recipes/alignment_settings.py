# SPDX-License-Identifier: Apache-2.0
"""What an alignment is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings


def _loop() -> LoopSettings:
    return LoopSettings(
        steps=1_000_000,
        decay=1_000_000,
        batch_size=16,
        accumulate=2,
        learning_rate=2e-5,
        warmup=200,
        weight_decay=0.01,
        ema=0.0,
        validate_every=500,
    )


@dataclass(frozen=True)
class AlignmentSettings:
    """Aligns pictures with language: trains the projector of a stitched value function.

    SigLIP and Gemma 3 stay as they are. The checkpoint has the best projector by validation
    loss, and is what the training of a value function begins from.

    Attributes:
        out: Folder of the training: checkpoint, state, logs and settings.
        questions: LLaVA-Instruct JSON file, or folder of a dataset in The Cauldron's form.
        pictures: Folder of the pictures that a JSON file names.
        split_seed: Of the split by picture into training and validation.
        validation: Share of the pictures whose questions choose the checkpoint.
        siglip: Pretrained picture encoder: a folder, or OWNER/NAME on the Hub.
        gemma: Pretrained Gemma 3, with its tokeniser: likewise.
        init: Checkpoint of a stitched value function to begin from instead.
        epochs: Times that every question is learnt, unless --steps ends it before.
        loop: How long, how fast, how often.
        config: YAML file of options by name; those on the command line go before it.
        resume: Go on with the training in the folder, with its settings.
    """

    out: Path
    questions: Path
    pictures: Path | None = None
    split_seed: int = 0
    validation: float = 0.05
    siglip: str | None = None
    gemma: str | None = None
    init: str | None = None
    epochs: float = 2.0
    loop: Annotated[LoopSettings, tyro.conf.arg(name="")] = field(default_factory=_loop)
    config: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense together.

        Raises:
            TrainingError: There is nothing to begin with, or a number is out of its range.
        """
        if self.init and (self.siglip or self.gemma):
            raise TrainingError("--init brings all weights; leave out --siglip and --gemma")
        if not self.init and not (self.siglip and self.gemma):
            raise TrainingError(
                "only the projector is trained, the rest must be trained already: expected "
                "--siglip FOLDER and --gemma FOLDER, or --init CHECKPOINT"
            )
        if not 0.0 < self.validation < 1.0:
            raise TrainingError(
                f"validation is {self.validation:g}, expected a share between 0 and 1"
            )
        if not self.epochs > 0.0:
            raise TrainingError(f"epochs is {self.epochs:g}, expected a positive number")
