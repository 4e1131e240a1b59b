# SPDX-License-Identifier: Apache-2.0
"""The loop of every training: on one or many processes, resumed where it was interrupted."""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from vla_training.data.loading.loaders import evaluation_loader, training_loader
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.interruption import heard_interruption
from vla_training.recipes.job import Job, Objective
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.progress import Progress
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
    progress = loop.progress
    if resume:
        progress.load()
    with heard_interruption() as interrupted, loop:
        while not (loop.done or loop.stopped):
            loop.advance(interrupted.is_set)
    return Ended(progress.step, interrupted=not loop.done, best=progress.best)


class _Loop:
    """A training; a context in which it advances."""

    def __init__(self, job: Job, settings: LoopSettings, out: Path) -> None:
        self._job, self._settings = job, settings
        self._accelerator = _accelerator(settings, out)
        self._ranks = self._accelerator.num_processes
        if settings.batch_size % (self._ranks * settings.accumulate):
            raise TrainingError(
                f"batch_size is {settings.batch_size}, expected a multiple of "
                f"{self._ranks} processes x {settings.accumulate} parts"
            )
        self._wrapped = self._accelerator.prepare_model(job.model)
        self.progress = Progress(job, settings, out / "state")  # of the weights on the device
        self.stopped = False

    @property
    def done(self) -> bool:
        """Whether all steps were made, or further ones would only make it worse."""
        settings, progress = self._settings, self.progress
        return progress.step >= settings.steps or 0 < settings.patience <= progress.worse

    def __enter__(self) -> "_Loop":
        settings, loading = self._settings, self._loading
        loader = training_loader(
            self._job.items,
            settings.batch_size,
            settings.steps,
            settings.seed,
            augmentation=self._job.augmentation,
            first_step=self.progress.step,
            **loading,
        )
        rank = self._accelerator.process_index
        self._batches = iter(shared(loader, rank, self._ranks, settings.accumulate))
        self._accelerator.init_trackers(
            settings.wandb or "training",
            init_kwargs={"tensorboard": {"purge_step": self.progress.step + 1}},
        )
        self._bar = tqdm(
            total=settings.steps,
            initial=self.progress.step,
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
        rate = settings.rate(self.progress.step)
        losses = self._learn(interrupted)
        speed = settings.batch_size * (self._bar.format_dict["rate"] or 0.0)
        self._bar.set_postfix_str(
            f"loss {losses['loss']:.4g}, lr {rate:.2e}, {speed:.0f} items/s", refresh=False
        )
        self._bar.update()
        if self.done or self.progress.step % settings.log_every == 0:
            self._log("train", {**losses, "learning_rate": rate, "items_per_s": speed})
        if self._job.validation and (
            self.done or self.progress.step % settings.validate_every == 0
        ):
            found = self._validate(self._job.validation)
            self._log("validation", found)
            if self.progress.judge(found["loss"]) and self._job.keep_best:
                self._export()
        if self.done or self.stopped or self.progress.step % settings.save_every == 0:
            self._save()

    def _learn(self, interrupted: Callable[[], bool]) -> dict[str, float]:
        """One step of the optimiser; the losses, and the length of the gradient."""
        settings, rank = self._settings, self._accelerator.process_index
        objective = self._job.objective
        torch.manual_seed(model_seed(settings.seed, self.progress.step, rank))
        parts = []
        for k in range(settings.accumulate):
            places = part_places(settings.batch_size, k, rank, self._ranks, settings.accumulate)
            rngs = training_rngs(settings.seed, self.progress.step, places)
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
        gradients = {
            name: norm / self._ranks for name, norm in self.progress.optimizer.clip().items()
        }
        found = self._reduced({**_summed(sums), **gradients, "interrupted": float(interrupted())})
        self.stopped = found.pop("interrupted") > 0.0
        lengths = {name: found.pop(name) for name in gradients}
        means = _means(found, counts)
        self._refuse_infinite(f"step {self.progress.step + 1}", {**means, **lengths})
        self.progress.advance()
        norms = {f"{name}_norm": length for name, length in lengths.items()}
        return {"loss": _total(objective, means), **_reported(objective, means, counts), **norms}

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
        with torch.no_grad(), self.progress.averaged():
            for batch in evaluation_loader(items, size, **self._loading):
                looked_at = list(islice(places, len(batch)))
                rngs = validation_rngs(self._settings.seed, looked_at)
                part = objective.prepare(batch, rngs, self._accelerator.device)
                counts.append(part.counts)
                sums.append(self._losses(objective, self._job.model, part.inputs))
        reduced = self._reduced(_summed(counts))
        means = _means(self._reduced(_summed(sums)), reduced)
        self._refuse_infinite(f"validation after step {self.progress.step}", means)
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
        for name, parameter in self.progress.parameters.items():
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
        self._accelerator.log(
            {f"{of}/{name}": value for name, value in values.items()}, self.progress.step
        )

    def _save(self) -> None:
        if not (self._job.keep_best and self._job.validation):
            self._export()
        if self._accelerator.is_main_process:
            self.progress.save()
        self._accelerator.wait_for_everyone()

    def _export(self) -> None:
        if self._accelerator.is_main_process:
            with self.progress.averaged():
                self._job.export()


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
