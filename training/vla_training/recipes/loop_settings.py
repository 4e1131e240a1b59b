# SPDX-License-Identifier: Apache-2.0
"""What every training is told: how long, how fast, how often to look and to save."""

import math
from dataclasses import dataclass

from vla_training.recipes.errors import TrainingError


@dataclass(frozen=True)
class LoopSettings:
    """Of the loop.

    Attributes:
        steps: Of the optimiser.
        batch_size: Items in a step, over all processes and parts.
        accumulate: Parts into which each process cuts its share of a step, to save memory.
        learning_rate: At its highest. The default is for fine-tuning published weights; a small
            model that begins from nothing wants about 1e-3.
        warmup: Steps until it is at its highest.
        decay: Steps until it is at its lowest, the warm-up included. Where ``steps`` are fewer,
            both are shortened alike, so that training ends at the lowest.
        decay_to: The lowest, as a share of the highest.
        weight_decay: Of matrices; norms and biases are left alone.
        clip: Longest gradient.
        ema: Share of itself that the average of the weights keeps in each step; 0 for none.
            Validation and the checkpoint take the average.
        bf16: Compute in bfloat16 what allows it; weights stay float32.
        seed: Of the order of items, of augmentation, of noise, and of new weights.
        workers: Processes that load, for each process that trains.
        validate_every: Steps.
        validation_items: Most items that validation looks at, evenly spread.
        patience: Validations without a lower loss after which training ends; 0 for never.
        save_every: Steps.
        keep: States that are kept, the newest ones.
        log_every: Steps.
        wandb: Project at Weights & Biases to log to as well; empty for none.
    """

    steps: int = 30_000
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 2.5e-5
    warmup: int = 1000
    decay: int = 30_000
    decay_to: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    bf16: bool = False
    seed: int = 0
    workers: int = 4
    validate_every: int = 1000
    validation_items: int = 512
    patience: int = 0
    save_every: int = 1000
    keep: int = 2
    log_every: int = 10
    wandb: str = ""

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: A setting is out of its range.
        """
        counts = ("steps", "batch_size", "accumulate", "decay", "validate_every")
        for name in (*counts, "validation_items", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("seed", "workers", "warmup", "weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("learning_rate", "clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} is {getattr(self, name)}, expected a positive number")
        for name, top in (("ema", 1.0), ("decay_to", math.nextafter(1.0, 2.0))):
            if not 0.0 <= getattr(self, name) < top:
                raise TrainingError(f"{name} is {getattr(self, name)}, expected from 0 to 1")
        if self.warmup >= self.decay:
            raise TrainingError(
                f"warmup is {self.warmup}, expected less than decay, {self.decay} steps"
            )

    @property
    def _scale(self) -> float:
        return min(1.0, self.steps / self.decay)

    @property
    def warmup_steps(self) -> int:
        """Steps until the rate is at its highest, in a training of so many steps."""
        return round(self.warmup * self._scale)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: up linearly, then down a cosine."""
        warmup, decay = self.warmup_steps, max(1, round(self.decay * self._scale))
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        share = min(1.0, (step - warmup) / max(1, decay - warmup))
        lowest = self.learning_rate * self.decay_to
        return lowest + (self.learning_rate - lowest) * (1.0 + math.cos(math.pi * share)) / 2.0
