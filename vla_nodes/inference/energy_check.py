# SPDX-License-Identifier: Apache-2.0
"""The energy check: which of the drawn chunks is sent, and whether it may be followed."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_nodes.contract import Contract
from vla_nodes.inference.drawn import Drawn
from vla_nodes.inference.energy_correction import Correction
from vla_nodes.inference.engine import Pi05Engine
from vla_nodes.inference.joint_names import check_joints
from vla_nodes.inference.policy import Verdict
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_calibration import EnergyCalibration
from vla_nodes.models.energy_checkpoint import (
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
)
from vla_nodes.models.errors import CheckpointError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Choice:
    """The chunk that is sent.

    Attributes:
        chunk: (T, A) normalised and padded.
        energy: Of the chunk as it was drawn; NaN when unchecked, like the next.
        threshold: The energy above which it is rejected.
        verdict: Which the two make.
        resamples: How often chunks were drawn again before.
    """

    chunk: NDArray[np.float32]
    energy: float = math.nan
    threshold: float = math.nan
    verdict: Verdict = Verdict.UNCHECKED
    resamples: int = 0


class EnergyCheck:
    """Takes the chunk of the lowest energy, and rejects it where that is too high.

    It is computed with the chunk, so that there is none without a verdict: where the check
    fails, so does the policy, and where it is slow, the chunk comes late.

    Args:
        calibration: Has the thresholds.
        resamples: How often chunks are drawn again while none is good enough.
        correction: Of a chunk that was accepted; None for none. It lowers the very energy that
            was judged, so it can save no chunk that was rejected.
    """

    def __init__(
        self, calibration: EnergyCalibration, resamples: int, correction: Correction | None
    ) -> None:
        self._calibration, self._resamples = calibration, resamples
        self._correction = correction

    def choose(self, engine: Pi05Engine, drawn: Drawn, task: str, past: int = 0) -> Choice:
        """Chooses, and draws again where that is needed.

        Args:
            engine: That has drawn.
            drawn: With energies.
            task: Whose threshold counts.
            past: First actions that are decided already.

        Raises:
            RuntimeError: Actions or energies are not finite.
        """
        threshold = self._calibration.threshold(task)
        best, resamples = _lowest(drawn), 0
        while best[0] > threshold and resamples < self._resamples:
            drawn, resamples = engine.again(drawn), resamples + 1
            best = min(best, _lowest(drawn), key=lambda one: one[0])
        energy, chunk = best
        accepted = energy <= threshold
        if accepted and self._correction is not None and (prefix := drawn.prefix) is not None:
            chunk = self._correction(lambda some: engine.energies(prefix, some), chunk, past)
        verdict = Verdict.ACCEPTED if accepted else Verdict.REJECTED
        return Choice(_numbers(chunk), energy, threshold, verdict, resamples)


def unchecked(drawn: Drawn) -> Choice:
    """The first chunk.

    Raises:
        RuntimeError: Its actions are not finite.
    """
    return Choice(_numbers(drawn.actions[0]))


def load_energy(
    folder: Path,
    policy: Path,
    contract: Contract,
    chunk: int,
) -> tuple[EnergyModel, EnergyCalibration]:
    """Loads an energy model for a policy on a robot; warns of one that rejects nothing.

    Args:
        folder: Of the energy model.
        policy: Folder of the policy.
        contract: Of the robot.
        chunk: Actions in the policy's chunks.

    Raises:
        CheckpointError: It is damaged or not calibrated, or of another policy or robot.
    """
    checkpoint = read_energy_checkpoint(folder)
    trained = checkpoint.interface
    calibration = EnergyCalibration.read(folder)
    check_joints(trained.action_names, contract.action_names, contract.robot, "the energy model")
    if trained.chunk != chunk:
        raise CheckpointError(
            f"{folder} judges chunks of {trained.chunk} actions, the policy's have {chunk}; train "
            "an energy model for this policy"
        )
    if abs(trained.fps - contract.fps) > 1e-3 * contract.fps:
        raise CheckpointError(
            f"{folder} judges {trained.fps:g} actions a second, '{contract.robot}' takes "
            f"{contract.fps:g}; set the contract's fps to {trained.fps:g}"
        )
    check_policy(checkpoint, policy)
    if doubts := calibration.doubts(checkpoint.config):
        _log.warning("%s: %s; train another energy model and calibrate it", folder, doubts)
    return load_energy_model(checkpoint), calibration


def _lowest(drawn: Drawn) -> tuple[float, Tensor]:
    """The lowest energy, and its chunk."""
    if drawn.energies is None:
        raise RuntimeError("the engine gave no energies, expected one for each chunk")
    if not bool(torch.isfinite(drawn.actions).all()):
        raise RuntimeError("the model gave actions that are not finite")
    energies = drawn.energies.tolist()
    if not all(map(math.isfinite, energies)):
        raise RuntimeError(f"the energy model gave energies that are not finite: {energies}")
    lowest = min(range(len(energies)), key=energies.__getitem__)
    return energies[lowest], drawn.actions[lowest]


def _numbers(chunk: Tensor) -> NDArray[np.float32]:
    actions: NDArray[np.float32] = chunk.cpu().numpy()
    if not np.isfinite(actions).all():
        raise RuntimeError("the model gave actions that are not finite")
    return actions
