# SPDX-License-Identifier: Apache-2.0
"""What the training of a value function is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.models.value_config import Arch
from vla_training.recipes.data_settings import EpisodeSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings

Size = Literal["full", "small", "tiny"]
Stage = Literal["value", "both"]
Targets = Literal["two-hot", "nearest"]


@dataclass(frozen=True, kw_only=True)
class ValueDataSettings(EpisodeSettings):
    """Which data a value function learns from.

    Attributes:
        dataset: Folders of LeRobot v3 datasets, labelled by vla-label alike.
        cameras: Names, in the order the model gets them; all of the datasets where none is given.
        subtasks: Share of the items, of those that have both, whose text and return are the
            subtask's instead of the task's.
        augment: Change crop, turn and colours of pictures anew whenever they are drawn.
        features: Folder for what a frozen picture encoder makes of the frames, so that it need
            not run in every epoch; augmentation is then off.
    """

    cameras: tuple[str, ...] = ()
    subtasks: float = 0.25
    augment: bool = True
    features: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: There is no dataset, or a number is out of its range.
        """
        super().__post_init__()
        self.check_parts()
        if not 0.0 <= self.subtasks <= 1.0:
            raise TrainingError(f"subtasks is {self.subtasks}, expected a share from 0 to 1")


@dataclass(frozen=True)
class ValueModelSettings:
    """Which value function is trained, and what of it.

    Attributes:
        size: Of a model that begins from nothing, or of what SigLIP and Gemma do not say.
        init: Checkpoint of a value function to begin from; one of an alignment, too.
        siglip: Pretrained picture encoder: a folder, or OWNER/NAME on the Hub.
        gemma: Pretrained Gemma 3, with its tokeniser: likewise.
        tokenizer: Folder of the tokeniser; that of checkpoint or Gemma where none is given.
        history: Frames of each camera that the model looks at, where it is not to be what size
            or checkpoint say: one picture cannot show that nothing moves.
        history_step: Seconds between them.
        freeze_vision: Leave the picture encoder as it is.
        freeze_language: Leave the language model as it is.
        lora: Rank of adapters that are trained in place of the language model; 0 for none.
        lora_alpha: Their scale is this over the rank.
        lora_dropout: Of what goes into them.
    """

    size: Size = "small"
    init: str | None = None
    siglip: str | None = None
    gemma: str | None = None
    tokenizer: Path | None = None
    history: int | None = None
    history_step: float | None = None
    freeze_vision: bool = False
    freeze_language: bool = False
    lora: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.05

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A setting is out of its range, or lacks another that it needs.
        """
        if self.lora < 0 or not 0.0 <= self.lora_dropout < 1.0:
            raise TrainingError(
                f"lora is {self.lora} and lora_dropout {self.lora_dropout}, expected a rank, or 0 "
                "for none, and a share below 1"
            )
        if self.lora and self.freeze_language:
            raise TrainingError(
                "--lora trains adapters in a language model that stays as it is; leave out "
                "--freeze-language"
            )
        if self.init and (self.siglip or self.gemma):
            raise TrainingError("--init brings all weights; leave out --siglip and --gemma")


@dataclass(frozen=True)
class QuestionSettings:
    """Questions about pictures, that a stitched model is trained along with.

    Attributes:
        questions: LLaVA-Instruct JSON file, or folder of a dataset in The Cauldron's form.
        pictures: Folder of the pictures that a JSON file names.
        questions_share: Share of the items of a step that are questions.
        questions_weight: Of their loss beside that of the values.
    """

    questions: Path | None = None
    pictures: Path | None = None
    questions_share: float = 0.25
    questions_weight: float = 0.1

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A number is out of its range.
        """
        if not 0.0 < self.questions_share <= 0.5 or not self.questions_weight > 0.0:
            raise TrainingError(
                f"questions_share is {self.questions_share} and questions_weight "
                f"{self.questions_weight}, expected a share of at most 0.5, and a positive number"
            )


def _cross_attention_loop() -> LoopSettings:
    return LoopSettings(
        steps=10_000,
        decay=10_000,
        warmup=1000,
        learning_rate=5e-5,
        weight_decay=1e-10,
        validate_every=500,
        patience=5,
    )


def _stitched_loop() -> LoopSettings:
    return LoopSettings(
        steps=1_000_000,
        decay=1_000_000,
        batch_size=8,
        warmup=100,
        learning_rate=1e-4,
        validate_every=500,
        patience=5,
        bf16=True,
    )


@dataclass(frozen=True)
class ValueSettings:
    """Trains a value function: how far a task has come, by pictures and its text.

    Attributes:
        arch: How pictures and text meet.
        out: Folder of the training: checkpoint, state, logs and settings.
        data: Which data to learn from.
        model: Which model to train.
        questions: What a stitched model is trained along with.
        loop: How long, how fast, how often.
        stage: both aligns the projector on the questions first, for a stitched model that begins
            from SigLIP and Gemma.
        epochs: Times that every frame is seen, unless --steps ends it before.
        targets: Of the loss: the two atoms beside a return, or the nearest one alone.
        config: YAML file of options by name; those on the command line go before it.
        resume: Go on with the training in the folder, with its settings.
    """

    arch: Arch
    out: Path
    data: Annotated[ValueDataSettings, tyro.conf.arg(name="")]
    model: Annotated[ValueModelSettings, tyro.conf.arg(name="")] = field(
        default_factory=ValueModelSettings
    )
    questions: Annotated[QuestionSettings, tyro.conf.arg(name="")] = field(
        default_factory=QuestionSettings
    )
    loop: Annotated[LoopSettings, tyro.conf.arg(name="")] = field(
        default_factory=_cross_attention_loop
    )
    stage: Stage = "value"
    epochs: float | None = None
    targets: Targets = "two-hot"
    config: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense together.

        Raises:
            TrainingError: A setting is out of its range, or contradicts another.
        """
        if self.arch != "stitched" and (self.questions.questions or self.stage == "both"):
            raise TrainingError(
                f"a {self.arch} model has no language head for questions; expected --arch stitched"
            )
        if self.stage == "both" and not self.questions.questions:
            raise TrainingError("--stage both needs --questions, which it aligns on")
        if self.epochs is not None and not self.epochs > 0.0:
            raise TrainingError(f"epochs is {self.epochs:g}, expected a positive number")
        if self.data.features and not self.model.freeze_vision:
            raise TrainingError("--features keeps what a frozen encoder makes: --freeze-vision")
        self._check_model()

    def _check_model(self) -> None:
        model = self.model
        if not (model.init or model.gemma or model.tokenizer):
            raise TrainingError(
                "a model from nothing needs --tokenizer FOLDER, which vla-fit-tokenizer makes"
            )
        if model.freeze_vision and not (model.init or model.siglip):
            raise TrainingError(
                "what stays as it is must have been trained: --freeze-vision needs --init or "
                "--siglip"
            )
        if (model.freeze_language or model.lora) and not (model.init or model.gemma):
            raise TrainingError(
                "what stays as it is must have been trained: --freeze-language and --lora need "
                "--init or --gemma"
            )


@dataclass(frozen=True)
class StitchedSettings(ValueSettings):
    """Trains a stitched value function, with the defaults of that architecture.

    Attributes:
        loop: How long, how fast, how often.
        epochs: Times that every frame is seen, unless --steps ends it before.
    """

    loop: Annotated[LoopSettings, tyro.conf.arg(name="")] = field(default_factory=_stitched_loop)
    epochs: float | None = 10.0
