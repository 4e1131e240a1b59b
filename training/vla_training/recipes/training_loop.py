# SPDX-License-Identifier: Apache-2.0
"""The loop of every training: on one or many processes, resumed where it was interrupted."""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from vla_training.data.loading.loaders import evaluation_loader, training_loader
from vla_training.recipes.ema import Ema
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.interruption import heard_interruption
from vla_training.recipes.job import Job, Objective
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.optimizer import Optimizer
from vla_training.recipes.run_state import (
    checksum,
    newest_state,
    read_about,
    read_part,
    write_state,
)
from vla_training.recipes.sharing import (
    model_seed,
    part_places,
    shared,
    training_rngs,
    validation_rngs,
)


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        step: Steps made.
        interrupted: Whether it was told to stop before its end; ``patience`` may end it before
            the last step.
        best: Lowest validation loss; infinite where there was none.
    """

    step: int
    interrupted: bool
    best: float


def train(job: Job, settings: LoopSettings, out: Path, *, resume: bool = False) -> Ended:
    """Trains a model.

    SIGINT and SIGTERM end training after the step that is under way, with its state saved.

    Args:
        job: What to train.
        settings: How.
        out: Holds ``state`` and ``logs``.
        resume: Go on from the newest state.

    Raises:
        TrainingError: A loss is not finite, nothing can be resumed, or the disk refused.
        DataError: An item cannot be read or used.
    """
    loop = _Loop(job, settings, out)
    if resume:
        loop.load()
    with heard_interruption() as interrupted, loop:
        while not (loop.done or loop.stopped):
            loop.advance(interrupted.is_set)
    return Ended(loop.step, interrupted=not loop.done, best=loop.best)


class _Loop:
    """State of a training; a context in which it advances."""

    def __init__(self, job: Job, settings: LoopSettings, out: Path) -> None:
        self._job, self._settings, self._out = job, settings, out
        self._accelerator = _accelerator(settings, out)
        self._ranks = self._accelerator.num_processes
        if settings.batch_size % (self._ranks * settings.accumulate):
            raise TrainingError(
                f"batch_size is {settings.batch_size}, expected a multiple of "
                f"{self._ranks} processes x {settings.accumulate} parts"
            )
        self._wrapped = self._accelerator.prepare_model(job.model)
        self._parameters = {n: p for n, p in job.model.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise TrainingError("no parameter is to be trained")
        frozen = {n: p for n, p in job.model.named_parameters() if not p.requires_grad}
        self._about: dict[str, Any] = {
            "items": len(job.items),  # type: ignore[arg-type]
            "untrained weights": checksum(frozen),
            **job.identity,
        }
        self._optimizer = Optimizer(self._parameters, settings, job.apart)
        self._ema = Ema(self._parameters, settings.ema) if settings.ema else None
        self.step = 0
        self.stopped = False
        self.best = inf
        self._worse = 0

    @property
    def done(self) -> bool:
        """Whether all steps were made, or further ones would only make it worse."""
        settings = self._settings
        return self.step >= settings.steps or 0 < settings.patience <= self._worse

    def __enter__(self) -> "_Loop":
        settings, loading = self._settings, self._loading
        loader = training_loader(
            self._job.items,
            settings.batch_size,
            settings.steps,
            settings.seed,
            augmentation=self._job.augmentation,
            first_step=self.step,
            **loading,
        )
        rank = self._accelerator.process_index
        self._batches = iter(shared(loader, rank, self._ranks, settings.accumulate))
        self._accelerator.init_trackers(
            settings.wandb or "training",
            init_kwargs={"tensorboard": {"purge_step": self.step + 1}},
        )
        self._bar = tqdm(
            total=settings.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self._accelerator.is_main_process,
        )
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()
        self._accelerator.end_training()

    @property
    def _loading(self) -> dict[str, Any]:
        pin_memory = self._accelerator.device.type == "cuda"
        collate = self._job.collate
        return {"workers": self._settings.workers, "pin_memory": pin_memory, "collate": collate}

    def advance(self, interrupted: Callable[[], bool]) -> None:
        """Makes a step, and validates and saves where that is due."""
        settings = self._settings
        rate = settings.rate(self.step)
        losses = self._learn(interrupted)
        self.step += 1
        if self._ema:
            self._ema.update(self.step)
        speed = settings.batch_size * (self._bar.format_dict["rate"] or 0.0)
        self._bar.set_postfix_str(
            f"loss {losses['loss']:.4g}, lr {rate:.2e}, {speed:.0f} items/s", refresh=False
        )
        self._bar.update()
        if self.done or self.step % settings.log_every == 0:
            self._log("train", {**losses, "learning_rate": rate, "items_per_s": speed})
        if self._job.validation and (self.done or self.step % settings.validate_every == 0):
            found = self._validate(self._job.validation)
            self._log("validation", found)
            self._judge(found["loss"])
        if self.done or self.stopped or self.step % settings.save_every == 0:
            self._save()

    def _learn(self, interrupted: Callable[[], bool]) -> dict[str, float]:
        """One step of the optimiser; the losses, and the length of the gradient."""
        settings, rank = self._settings, self._accelerator.process_index
        objective = self._job.objective
        torch.manual_seed(model_seed(settings.seed, self.step, rank))
        parts = []
        for k in range(settings.accumulate):
            places = part_places(settings.batch_size, k, rank, self._ranks, settings.accumulate)
            rngs = training_rngs(settings.seed, self.step, places)
            parts.append(objective.prepare(next(self._batches), rngs, self._accelerator.device))
        counts = self._reduced(_summed(part.counts for part in parts))
        self._job.model.train()
        sums = []
        for part in parts:
            waiting = part is not parts[-1]
            with self._accelerator.no_sync(self._wrapped) if waiting else nullcontext():
                losses = self._losses(objective, self._wrapped, part.inputs)
                # Each process has a share of a sum, and gradients are averaged over processes.
                (_total(objective, _means(losses, counts)) * self._ranks).backward()
            sums.append({name: loss.detach() for name, loss in losses.items()})
        self._refuse_idle()
        gradients = {name: norm / self._ranks for name, norm in self._optimizer.clip().items()}
        found = self._reduced({**_summed(sums), **gradients, "interrupted": float(interrupted())})
        self.stopped = found.pop("interrupted") > 0.0
        lengths = {name: found.pop(name) for name in gradients}
        means = _means(found, counts)
        self._refuse_infinite(f"step {self.step + 1}", {**means, **lengths})
        self._optimizer.step(self.step)
        norms = {f"{name}_norm": length for name, length in lengths.items()}
        return {"loss": _total(objective, means), **_reported(objective, means, counts), **norms}

    def _judge(self, loss: float) -> None:
        """Takes in the loss of a validation."""
        better = loss < self.best
        self._worse = 0 if better else self._worse + 1
        self.best = min(loss, self.best)
        if better and self._job.keep_best:
            self._export()

    def _validate(self, validation: Dataset[Any]) -> dict[str, float]:
        count = len(validation)  # type: ignore[arg-type]
        chosen = np.linspace(0, count - 1, min(count, self._settings.validation_items))
        # Where there are more processes than items, some items are looked at twice.
        first = self._accelerator.process_index % len(chosen)
        share = range(first, len(chosen), self._ranks)
        items = Subset(validation, [round(chosen[place]) for place in share])
        size = self._settings.batch_size // (self._ranks * self._settings.accumulate)
        counts, sums, places = [], [], iter(share)
        objective = self._job.validation_objective or self._job.objective
        self._job.model.eval()
        with torch.no_grad(), self._averaged():
            for batch in evaluation_loader(items, size, **self._loading):
                looked_at = list(islice(places, len(batch)))
                rngs = validation_rngs(self._settings.seed, looked_at)
                part = objective.prepare(batch, rngs, self._accelerator.device)
                counts.append(part.counts)
                sums.append(self._losses(objective, self._job.model, part.inputs))
        reduced = self._reduced(_summed(counts))
        means = _means(self._reduced(_summed(sums)), reduced)
        self._refuse_infinite(f"validation after step {self.step}", means)
        return {"loss": _total(objective, means), **_reported(objective, means, reduced)}

    def _losses(self, objective: Objective, model: nn.Module, inputs: Any) -> Mapping[str, Tensor]:
        kind = self._accelerator.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self._settings.bf16):
            return objective.losses(model, inputs)

    def _reduced(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Summed over processes; the only place where a step waits for the device."""
        device = self._accelerator.device
        stacked = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=device) for v in values.values()]
        )
        return dict(zip(values, self._accelerator.reduce(stacked, "sum").tolist(), strict=True))

    def _refuse_idle(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                raise TrainingError(f"{name} is to be trained, and no loss depends on it")

    def _refuse_infinite(self, when: str, values: Mapping[str, float]) -> None:
        """Before the optimiser takes it in, or the checkpoint, so that the weights stay good."""
        for name, value in values.items():
            if not isfinite(value):
                what = name if name.endswith("gradient") else f"loss {name!r}"
                raise TrainingError(
                    f"{when}: the {what} is {value}, expected a finite number; "
                    "lower the learning rate, lengthen the warm-up, or look for wild values in "
                    "the data; --resume goes on from the last state that was saved"
                )

    def _log(self, of: str, values: Mapping[str, float]) -> None:
        self._accelerator.log({f"{of}/{name}": value for name, value in values.items()}, self.step)

    # --- on the disk ------------------------------------------------------------------------

    def _save(self) -> None:
        if not (self._job.keep_best and self._job.validation):
            self._export()
        if self._accelerator.is_main_process:
            parts: dict[str, Mapping[str, Tensor]] = {
                "model": self._parameters,
                "optimizer": self._optimizer.moments(),
                **({"ema": self._ema.weights} if self._ema else {}),
            }
            best = self.best if isfinite(self.best) else None
            about = {**self._about, "best validation loss": best, "worse since": self._worse}
            write_state(self._out / "state", self.step, parts, about, self._settings.keep)
        self._accelerator.wait_for_everyone()

    def _export(self) -> None:
        if self._accelerator.is_main_process:
            with self._averaged():
                self._job.export()

    def load(self) -> None:
        """Takes up the newest state.

        Raises:
            TrainingError: There is none, or it is of another training.
        """
        state = newest_state(self._out / "state")
        if state is None:
            raise TrainingError(f"{self._out / 'state'} holds no state to resume from")
        about = read_about(state)
        for name, now in self._about.items():
            if about.get(name) != now:
                raise TrainingError(
                    f"{state} is of another training: {name} was {about.get(name)!r:.20}, and is "
                    f"{now!r}; expected the same data, tokenisers and weights to begin from"
                )
        with torch.no_grad():
            for name, tensor in read_part(state, "model", self._parameters).items():
                self._parameters[name].copy_(tensor)
            if self._ema:
                for name, tensor in read_part(state, "ema", self._ema.weights).items():
                    self._ema.weights[name].copy_(tensor)
        self.step, self._worse = about["step"], about.get("worse since", 0)
        best = about.get("best validation loss")
        self.best = inf if best is None else best
        tensors = read_part(state, "optimizer", self._optimizer.moments_like())
        self._optimizer.set_moments(tensors, self.step)

    def _averaged(self) -> AbstractContextManager[None]:
        return self._ema.applied() if self._ema else nullcontext()


def _accelerator(settings: LoopSettings, out: Path) -> Accelerator:
    trackers = ["tensorboard"]
    if settings.wandb:
        if importlib.util.find_spec("wandb") is None:
            raise TrainingError("wandb is not installed: pip install wandb, or leave out --wandb")
        trackers.append("wandb")
    return Accelerator(mixed_precision="no", log_with=trackers, project_dir=str(out / "logs"))


def _summed(values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Key by key."""
    total: dict[str, Any] = {}
    for one in values:
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _means(sums: Mapping[str, Any], counts: Mapping[str, float]) -> dict[str, Any]:
    return {name: value / max(counts[name], 1.0) for name, value in sums.items()}


def _total(objective: Objective, means: Mapping[str, Any]) -> Any:
    return sum(w * means[name] for name, w in objective.weights.items())


def _reported(
    objective: Objective, means: Mapping[str, float], counts: Mapping[str, float]
) -> dict[str, float]:
    """What is reported: a figure of nothing would pass for a bad one."""
    return {n: mean for n, mean in means.items() if n in objective.weights or counts[n]}
