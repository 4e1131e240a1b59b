# SPDX-License-Identifier: Apache-2.0
"""Energy models on recorded frames: expert chunks against others, samples among themselves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vla_nodes.models.energy_checkpoint import load_energy_model
from vla_training.energy.energy_set import EnergyBatch, EnergySet
from vla_training.energy.negative_settings import Kind, NegativeSettings
from vla_training.energy.negatives import Made
from vla_training.energy.scoring import (
    EXPERT,
    Chunks,
    Scores,
    expert_chunks,
    perturbed_chunks,
    score,
)
from vla_training.evaluation.energy_checkpoints import Judge
from vla_training.evaluation.energy_choice import (
    Correlation,
    Figure,
    SampleErrors,
    choices,
    correlate,
    means,
)
from vla_training.evaluation.energy_separation import ScoredFrames, Separation, separate

NOISES = (0.5, 1.0, 3.0)
"""Standard deviations of noise, in those of each joint."""

_DRAWN = "drawn"  # all samples, whether they count as negatives or not


@dataclass(frozen=True, eq=False)
class SampleResults:
    """Of chunks that the policy drew.

    Attributes:
        chosen: By energy model, what it takes of each count.
        best: What one would take who knows the expert's chunk.
        mean: The mean of the samples, likewise.
        correlations: By energy model.
    """

    chosen: Mapping[str, Sequence[Figure]]
    best: Sequence[Figure]
    mean: Sequence[Figure]
    correlations: Mapping[str, Correlation]


@dataclass(frozen=True, eq=False)
class EnergyResults:
    """What came out.

    Attributes:
        joints: (A,) names.
        scored: By energy model, the energies that all follows from.
        total: By energy model, then by kind of negative.
        tasks: By task, then by energy model, then by kind.
        frames: By task.
        samples: None where the policy drew none.
        seconds: That the energies took.
    """

    joints: Sequence[str]
    scored: Mapping[str, ScoredFrames]
    total: Mapping[str, Mapping[str, Separation]]
    tasks: Mapping[str, Mapping[str, Mapping[str, Separation]]]
    frames: Mapping[str, int]
    samples: SampleResults | None
    seconds: float


def evaluate_energy(
    judges: Sequence[Judge],
    frames: EnergySet,
    *,
    samples: bool,
    layers: bool,
    far: float = 0.5,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> EnergyResults:
    """Runs energy models on every frame.

    All of them judge the same chunks: what is random follows from seed and frame.

    Args:
        judges: The energy models, of one policy.
        frames: One or more.
        samples: Whether they have chunks that the policy drew.
        layers: Whether they have chunks of its earlier layers.
        far: Distance from which on a chunk of the policy counts as a negative.
        seed: Of negatives and intervals, not negative.
        batch_size: Frames at a time.
        device: For the energy models.

    Raises:
        CheckpointError: Weights do not fit, are damaged, or were replaced meanwhile.
        DataError: Something in the contexts or on the way is not finite.
    """
    begin = time.perf_counter()
    kinds = negative_chunks(frames, layers, far, seed)
    scores: dict[str, Scores] = {}
    scored: dict[str, ScoredFrames] = {}
    errors = None
    for judge in judges:
        drawn = _Drawn(frames, far)
        asked: dict[str, Chunks] = {EXPERT: expert_chunks, **kinds}
        if samples:
            asked[_DRAWN] = drawn
        model = load_energy_model(judge.checkpoint, device)
        scores[judge.name] = one = score(model, frames, asked, device, batch_size)
        negatives = {kind: one.energies[kind] for kind in kinds}
        if samples:
            errors = drawn.errors(one.episodes)
            negatives["samples"] = np.where(drawn.far, one.energies[_DRAWN], np.nan)
        scored[judge.name] = ScoredFrames(one.episodes, one.energies[EXPERT][:, 0], negatives)
    seconds = time.perf_counter() - begin
    tasks = one.tasks
    of_task = {task: tasks == task for task in dict.fromkeys(tasks)}
    return EnergyResults(
        joints=judges[0].checkpoint.interface.action_names,
        scored=scored,
        total={name: separate(one, seed) for name, one in scored.items()},
        tasks={
            task: {name: separate(one.take(rows), seed) for name, one in scored.items()}
            for task, rows in of_task.items()
        },
        frames={task: int(rows.sum()) for task, rows in of_task.items()},
        samples=_sample_results(errors, scores, _units(frames), seed) if errors else None,
        seconds=seconds,
    )


def negative_chunks(frames: EnergySet, layers: bool, far: float, seed: int) -> dict[str, Chunks]:
    """What makes the negatives of each kind but samples; arguments as of ``evaluate_energy``."""
    kinds: list[tuple[str, Kind, NegativeSettings]] = [
        (f"noise {noise:g}", "noise", NegativeSettings(noise=noise)) for noise in NOISES
    ]
    others: list[Kind] = ["shift", "reversed", "joints", "other-task"]
    others += ["layers"] if layers else []
    kinds += [(kind, kind, NegativeSettings(far=far)) for kind in others]
    return {
        name: perturbed_chunks(kind, frames.chunks, settings, seed)
        for name, kind, settings in kinds
    }


class _Drawn:
    """All samples of the policy; on the way it keeps their errors, and which are negatives."""

    def __init__(self, frames: EnergySet, far: float) -> None:
        self._negatives = perturbed_chunks("samples", frames.chunks, NegativeSettings(far=far))
        self._far: list[npt.NDArray[np.bool_]] = []
        self._each: list[npt.NDArray[np.float64]] = []
        self._mean: list[npt.NDArray[np.float64]] = []

    def __call__(self, batch: EnergyBatch) -> Made:
        """Of B frames, (B, M, T, A), and that all are there."""
        samples, far = self._negatives(batch)
        self._far.append(far)
        errors = SampleErrors.of(samples, batch.actions.numpy(), batch.rows)
        self._each.append(errors.each)
        self._mean.append(errors.mean)
        return samples, np.ones_like(far)

    @property
    def far(self) -> npt.NDArray[np.bool_]:
        """(N, M) which samples are far enough from the expert's chunk to be negatives."""
        return np.concatenate(self._far)

    def errors(self, episode: npt.NDArray[np.int64]) -> SampleErrors:
        """Of all frames, which are of these episodes, (N,)."""
        return SampleErrors(np.concatenate(self._each), np.concatenate(self._mean), episode)


def _sample_results(
    errors: SampleErrors,
    scores: Mapping[str, Scores],
    units: npt.NDArray[np.float64],
    seed: int,
) -> SampleResults:
    energies = {name: one.energies[_DRAWN].astype(np.float64) for name, one in scores.items()}
    return SampleResults(
        chosen={name: choices(errors, one, units, seed) for name, one in energies.items()},
        best=choices(errors, None, units, seed),
        mean=means(errors, units, seed),
        correlations={name: correlate(errors, one, seed) for name, one in energies.items()},
    )


def _units(frames: EnergySet) -> npt.NDArray[np.float64]:
    """(A,) of a joint's own in one normalised."""
    scaling = frames.normalization.action
    low, high = scaling.restore(np.array([[0.0], [1.0]]) * np.ones(len(scaling.low)))
    return high - low
