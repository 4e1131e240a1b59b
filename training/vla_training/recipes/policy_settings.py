# SPDX-License-Identifier: Apache-2.0
"""What the training of a policy is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.models.scaling import Mode as Scaled
from vla_training.recipes.data_settings import EpisodeSettings
from vla_training.recipes.energy_settings import JointEnergySettings, check_split_seed
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings

Mode = Literal["joint", "planner", "planner-fast", "expert"]
Size = Literal["full", "medium", "small", "tiny"]


@dataclass(frozen=True, kw_only=True)
class DataSettings(EpisodeSettings):
    """Which data a policy learns from.

    Attributes:
        cameras: Names, in the order the model gets them; all of the datasets where none is given.
        validation: Share of the episodes that validation looks at; 0 for none.
        test: Share of the episodes that is kept for evaluation; 0 for none.
        normalization: By which statistics states and actions are scaled.
        augment: Change crop, turn and colours of pictures anew whenever they are drawn.
        weigh: Count the actions of each frame by the column weight, that vla-label --beta makes.
    """

    cameras: tuple[str, ...] = ()
    normalization: Scaled = "quantile"
    augment: bool = True
    weigh: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """Which model is trained, and what of it.

    Attributes:
        size: Of a model that begins from nothing.
        init: Checkpoint to begin from instead: a folder, or OWNER/NAME on the Hub.
        tokenizer: Folder of the text tokeniser; the checkpoint's own where none is given.
        fast: Folder of the FAST tokeniser, for mode planner-fast, or to leave room for its tokens;
            the checkpoint's own where none is given.
        chunk: Actions in a chunk, where it is not to be what size or checkpoint say.
        max_delay: Most actions at the start of a chunk that are given as already decided, so
            that the robot can go on while it thinks; otherwise what size or checkpoint say.
        freeze_vision: Leave the picture encoder as it is.
        lora: Rank of adapters that are trained in place of the language model's layers, or in
            mode expert of the expert's; 0 for none.
        lora_alpha: Their scale is this over the rank.
        lora_expert: Give the expert adapters as well as the language model.
        gradient_checkpointing: Compute layers again instead of keeping them: slower, and less
            memory.
    """

    size: Size = "small"
    init: str | None = None
    tokenizer: Path | None = None
    fast: Path | None = None
    chunk: int | None = None
    max_delay: int | None = None
    freeze_vision: bool = False
    lora: int = 0
    lora_alpha: int = 16
    lora_expert: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A setting lacks another that it needs.
        """
        if self.lora < 0:
            raise TrainingError(f"lora is {self.lora}, expected a rank, or 0 for none")
        if self.lora_expert and not self.lora:
            raise TrainingError("--lora-expert needs a rank, --lora 16")


@dataclass(frozen=True)
class PolicySettings:
    """Trains a hierarchical pi0.5: a planner that writes subtasks, and an expert that acts.

    Attributes:
        mode: joint trains both; planner the planner alone; planner-fast has it write actions as
            FAST tokens, too; expert trains the action expert on a planner that stays as it is.
        out: Folder of the training: checkpoint, state, logs and settings.
        data: Which data to learn from.
        model: Which model to train.
        loop: How long, how fast, how often.
        energy: Whether an energy model is trained along with it.
        alpha: Weight of the action loss beside the text loss, in mode joint.
        insulate: The action loss leaves vision and language model alone.
        flow_samples: Noises and times that the expert learns from each item at once.
        advantage: Tell the actor how good the actions are, where the data have that label.
        advantage_dropout: Share of the labelled items in which it is not told.
        config: YAML file of options by name; those on the command line go before it.
        resume: Go on with the training in the folder, with its settings.
    """

    mode: Mode
    out: Path
    data: Annotated[DataSettings, tyro.conf.arg(name="")]
    model: Annotated[ModelSettings, tyro.conf.arg(name="")] = field(default_factory=ModelSettings)
    loop: Annotated[LoopSettings, tyro.conf.arg(name="")] = field(default_factory=LoopSettings)
    energy: Annotated[JointEnergySettings, tyro.conf.arg(name="")] = field(
        default_factory=JointEnergySettings
    )
    alpha: float = 10.0
    insulate: bool = True
    flow_samples: int = 2
    advantage: bool = True
    advantage_dropout: float = 0.3
    config: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense together.

        Raises:
            TrainingError: A setting is out of its range, or contradicts another.
        """
        model = self.model
        if not model.init and model.tokenizer is None:
            raise TrainingError(
                "a model from nothing needs --tokenizer FOLDER, which vla-fit-tokenizer makes"
            )
        if not model.init and (self.mode == "expert" or model.freeze_vision or model.lora):
            raise TrainingError(
                "what stays as it is must have been trained: mode expert, --freeze-vision and "
                "--lora need --init CHECKPOINT"
            )
        if self.mode == "joint" and not self.alpha > 0.0:
            raise TrainingError(
                f"alpha is {self.alpha:g}, expected a positive number; --mode planner trains "
                "without actions"
            )
        if self.flow_samples < 1:
            raise TrainingError(f"flow_samples is {self.flow_samples}, expected at least 1")
        if not 0.0 <= self.advantage_dropout <= 1.0:
            raise TrainingError(
                f"advantage_dropout is {self.advantage_dropout:g}, expected from 0 to 1"
            )
        if self.mode == "planner-fast" and not (model.fast or model.init):
            raise TrainingError("mode planner-fast needs --fast FOLDER, which vla-fit-fast makes")
        if self.mode == "planner-fast" and self.data.normalization != "quantile":
            raise TrainingError(
                "FAST tokens are of actions scaled by quantiles; expected --normalization quantile"
            )
        if self.mode.startswith("planner") and self.data.weigh:
            raise TrainingError(
                f"mode {self.mode} trains no expert, whose actions are weighed; leave out --weigh"
            )
        if self.energy.energy:
            self._check_energy()
        if self.mode.startswith("planner") and model.lora_expert:
            raise TrainingError(
                f"mode {self.mode} does not train the expert; leave out --lora-expert"
            )

    def _check_energy(self) -> None:
        if not self.acts:
            raise TrainingError(
                f"mode {self.mode} trains no expert, whose chunks --energy judges; leave it out"
            )
        check_split_seed(self.data.split_seed)
        loop = self.loop
        if loop.batch_size // loop.accumulate < 2:
            raise TrainingError(
                f"batch_size is {loop.batch_size} in {loop.accumulate} parts, and --energy tells "
                "the chunks of a part from each other; expected 2 in each"
            )

    @property
    def plans(self) -> bool:
        """Whether the planner is trained."""
        return self.mode != "expert"

    @property
    def acts(self) -> bool:
        """Whether the expert is trained."""
        return self.mode in ("joint", "expert")
