# SPDX-License-Identifier: Apache-2.0
"""How far a training is: what its steps change, on the disk and taken up from there."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla_training.recipes.ema import Ema
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.job import Job
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.optimizer import Optimizer
from vla_training.recipes.run_state import (
    checksum,
    newest_state,
    read_about,
    read_part,
    write_state,
)


class Progress:
    """Of a training that was not begun yet.

    Attributes:
        parameters: What is trained, by name.
        optimizer: Of them.
        ema: Their average; None without.
        step: Steps made.
        best: Lowest validation loss; infinite before the first.
        worse: Validations since then.

    Args:
        job: What is trained.
        settings: How.
        folder: Of the states.

    Raises:
        TrainingError: No parameter is to be trained.
    """

    def __init__(self, job: Job, settings: LoopSettings, folder: Path) -> None:
        self._folder, self._keep = folder, settings.keep
        named = dict(job.model.named_parameters())
        self.parameters = {name: p for name, p in named.items() if p.requires_grad}
        if not self.parameters:
            raise TrainingError("no parameter is to be trained")
        self._about: dict[str, Any] = {
            "items": len(job.items),  # type: ignore[arg-type]
            "untrained weights": checksum(
                {name: p for name, p in named.items() if not p.requires_grad}
            ),
            **job.identity,
        }
        self.optimizer = Optimizer(self.parameters, settings, job.apart)
        self.ema = Ema(self.parameters, settings.ema) if settings.ema else None
        self.step, self.best, self.worse = 0, inf, 0

    def advance(self) -> None:
        """Makes a step along the gradients."""
        self.optimizer.step(self.step)
        self.step += 1
        if self.ema:
            self.ema.update(self.step)

    def judge(self, loss: float) -> bool:
        """Takes in the loss of a validation; whether it is the lowest so far."""
        better = loss < self.best
        self.worse = 0 if better else self.worse + 1
        self.best = min(loss, self.best)
        return better

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the average for weights in here, where there is one."""
        return self.ema.applied() if self.ema else nullcontext()

    def save(self) -> None:
        """Writes a state.

        Raises:
            TrainingError: The disk refused.
        """
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.parameters,
            "optimizer": self.optimizer.moments(),
            **({"ema": self.ema.weights} if self.ema else {}),
        }
        best = self.best if isfinite(self.best) else None
        about = {**self._about, "best validation loss": best, "worse since": self.worse}
        write_state(self._folder, self.step, parts, about, self._keep)

    def load(self) -> None:
        """Takes up the newest state.

        Raises:
            TrainingError: There is none, or it is of another training.
        """
        state = newest_state(self._folder)
        if state is None:
            raise TrainingError(f"{self._folder} holds no state to resume from")
        about = read_about(state)
        for name, now in self._about.items():
            if about.get(name) != now:
                raise TrainingError(
                    f"{state} is of another training: {name} was {about.get(name)!r:.20}, and is "
                    f"{now!r}; expected the same data, tokenisers and weights to begin from"
                )
        with torch.no_grad():
            for name, tensor in read_part(state, "model", self.parameters).items():
                self.parameters[name].copy_(tensor)
            if self.ema:
                for name, tensor in read_part(state, "ema", self.ema.weights).items():
                    self.ema.weights[name].copy_(tensor)
        self.step, self.worse = about["step"], about.get("worse since", 0)
        best = about.get("best validation loss")
        self.best = inf if best is None else best
        tensors = read_part(state, "optimizer", self.optimizer.moments_like())
        self.optimizer.set_moments(tensors, self.step)
