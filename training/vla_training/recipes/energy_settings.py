# SPDX-License-Identifier: Apache-2.0
"""What the training of an energy model is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_nodes.models.energy_config import EnergyConfig, Form, Pooling
from vla_training.energy.negative_settings import Kind, NegativeSettings
from vla_training.recipes.data_settings import EpisodeSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings

Loss = Literal["swap", "swap-both", "explicit", "hinge"]


@dataclass(frozen=True, kw_only=True)
class EnergyDataSettings(EpisodeSettings):
    """Whose hidden states an energy model reads, and which data it learns from.

    Attributes:
        policy: Folder of the policy's checkpoint.
        dataset: Folders of LeRobot v3 datasets of the policy's robot.
        contexts: Folder for what the policy makes of the frames, which is computed once and kept;
            ``contexts`` beside the checkpoint where none is given.
        failures: Take the chunks of episodes that failed for good ones, too.
        validation: Share of the episodes that chooses the checkpoint, and calibrates it later.
    """

    policy: Path
    contexts: Path | None = None
    failures: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: There is no dataset, or a number is out of its range.
        """
        super().__post_init__()
        self.check_parts()
        check_split_seed(self.split_seed)


@dataclass(frozen=True)
class EnergyModelSettings:
    """Which energy model is trained.

    Attributes:
        hidden: Width within.
        heads: Of the cross attention.
        dropout: On the actions' features.
        form: tokens lets each action attend to the policy's hidden states; global lets their mean
            attend to the actions.
        pooling: mean of the actions' energies, or attention, which knows their order.
        bounded: Keep energies between 0.1 and 2.1, by a sigmoid.
    """

    hidden: int = 512
    heads: int = 8
    dropout: float = 0.2
    form: Form = "tokens"
    pooling: Pooling = "mean"
    bounded: bool = True

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: The parts do not fit each other.
        """
        self.config(1, 1)

    def config(self, state_dim: int, action_dim: int) -> EnergyConfig:
        """Of a model for hidden states and actions of these widths."""
        try:
            return EnergyConfig(state_dim, action_dim, **vars(self))
        except ValueError as error:
            raise TrainingError(str(error)) from None


@dataclass(frozen=True)
class EnergyLossSettings:
    """What expert chunks are told from, and how.

    Attributes:
        loss: swap tells a chunk from the other chunks of its batch, swap-both each context from
            the other contexts as well; explicit and hinge tell it from ``negatives`` alone.
        tau: Temperature, of all but hinge.
        margin: That negatives are to keep above the expert's chunk, of hinge.
        negatives: Further chunks that are told from the expert's, each kind once for every frame.
        noise: Of noisy chunks, in standard deviations of each joint.
        shift: Frames between a chunk and a shifted one; the length of a chunk where none is given.
        samples: Chunks that the policy itself draws for each frame, for negatives of that name.
        far: Root mean square distance to the expert's chunk, in normalised units, from which one
            of the policy's own is a negative.
    """

    loss: Loss = "swap"
    tau: float = 0.5
    margin: float = 0.5
    negatives: tuple[Kind, ...] = ("noise", "shift", "reversed", "joints")
    noise: float = 1.0
    shift: int | None = None
    samples: int = 4
    far: float = 0.5

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A number is out of its range, or a loss lacks its negatives.
        """
        for name in ("tau", "margin"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise TrainingError(f"{name} is {getattr(self, name)}, expected a positive number")
        if self.samples < 1:
            raise TrainingError(f"samples is {self.samples}, expected at least 1")
        if len(set(self.negatives)) < len(self.negatives):
            raise TrainingError(
                f"negatives are {', '.join(self.negatives)}, expected each kind once"
            )
        if not (self.swaps or self.negatives):
            raise TrainingError(
                f"--loss {self.loss} learns from nothing but --negatives, and none are named"
            )
        try:
            _ = self.making
        except ValueError as error:
            raise TrainingError(str(error)) from None

    @property
    def swaps(self) -> bool:
        """Whether chunks of the batch are told from each other."""
        return self.loss.startswith("swap")

    @property
    def making(self) -> NegativeSettings:
        """How negatives are made."""
        return NegativeSettings(noise=self.noise, shift=self.shift, far=self.far)


def check_split_seed(seed: int) -> None:
    """Refuses a seed that the checkpoint of an energy model does not hold.

    Raises:
        TrainingError: It is out of range.
    """
    if not 0 <= seed <= 2**31:
        raise TrainingError(f"split_seed is {seed}, expected from 0 to {2**31}")


def _loop() -> LoopSettings:
    return LoopSettings(
        steps=10_000,
        decay=10_000,
        warmup=500,
        learning_rate=5e-4,
        validate_every=250,
        patience=5,
    )


@dataclass(frozen=True)
class EnergySettings:
    """Trains an energy model: how badly a chunk of actions fits what a policy sees.

    Attributes:
        out: Folder of the training: checkpoint, contexts, state, logs and settings.
        data: Whose hidden states it reads, and which data to learn from.
        model: Which model to train.
        loss: What expert chunks are told from, and how.
        loop: How long, how fast, how often; its bf16 is the policy's, when it looks at the frames.
        config: YAML file of options by name; those on the command line go before it.
        resume: Go on with the training in the folder, with its settings.
    """

    out: Path
    data: Annotated[EnergyDataSettings, tyro.conf.arg(name="")]
    model: Annotated[EnergyModelSettings, tyro.conf.arg(name="")] = field(
        default_factory=EnergyModelSettings
    )
    loss: Annotated[EnergyLossSettings, tyro.conf.arg(name="")] = field(
        default_factory=EnergyLossSettings
    )
    loop: Annotated[LoopSettings, tyro.conf.arg(name="")] = field(default_factory=_loop)
    config: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense together.

        Raises:
            TrainingError: A part of a step has no chunk to tell from another.
        """
        loop = self.loop
        if self.loss.swaps and loop.batch_size // loop.accumulate < 2:
            raise TrainingError(
                f"batch_size is {loop.batch_size} in {loop.accumulate} parts, and --loss "
                f"{self.loss.loss} tells the chunks of a part from each other; expected 2 in each"
            )


@dataclass(frozen=True)
class JointEnergySettings:
    """An energy model that is trained along with a policy.

    Attributes:
        energy: Train one on what the policy sees at that moment, into ``energy`` beside the
            policy's checkpoint. It starts when the warm-up is over.
        energy_learning_rate: At its highest; it falls as that of the policy does.
        energy_clip: Longest gradient of it.
    """

    energy: bool = False
    energy_learning_rate: float = 5e-4
    energy_clip: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A number is out of its range.
        """
        for name in ("energy_learning_rate", "energy_clip"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise TrainingError(f"{name} is {getattr(self, name)}, expected a positive number")
