# SPDX-License-Identifier: Apache-2.0
"""What the policy node reports of its energy check."""

from collections.abc import Sequence
from pathlib import Path

from vla_nodes.inference import ActionPlan, Verdict
from vla_nodes.models.energy_calibration import EnergyCalibration
from vla_nodes.models.errors import CheckpointError
from vla_nodes.monitoring.energy_drift import HIGH, EnergyDrift
from vla_nodes.nodes.parameters import ParameterError


class EnergyFigures:
    """Counts verdicts, and follows energies, since the node was configured.

    Args:
        folder: Of the energy model; empty for no check, of which there is nothing to report.

    Raises:
        ParameterError: The calibration cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self._drift: EnergyDrift | None = None
        self._accepted = self._resampled = self._rejected = 0
        self._rejection = ""
        if folder:
            try:
                calibration = EnergyCalibration.read(Path(folder))
            except CheckpointError as error:
                raise ParameterError(str(error)) from error
            self._drift = EnergyDrift(calibration.quantiles)

    def add(self, plan: ActionPlan) -> None:
        """Takes a judged plan in.

        Raises:
            RuntimeError: It was not judged although there is a check.
        """
        if self._drift is None:
            return
        if plan.verdict == Verdict.UNCHECKED:
            raise RuntimeError("a chunk has no verdict, expected one of the energy check")
        rejected = plan.verdict == Verdict.REJECTED
        self._accepted += not rejected
        self._rejected += rejected
        self._resampled += plan.resamples > 0
        self._drift.add(plan.energy)
        self._rejection = (
            f"the energy check rejected the last chunk: energy {plan.energy:g} is above "
            f"{plan.threshold:g}"
            if rejected
            else ""
        )

    def values(self) -> dict[str, object]:
        """Figures by name; none without a check."""
        if self._drift is None:
            return {}
        p50, p95 = self._drift.percentiles
        return {
            "chunks_accepted": self._accepted,
            "chunks_resampled": self._resampled,
            "chunks_rejected": self._rejected,
            "energy_p50": p50,
            "energy_p95": p95,
            "energies_high": self._drift.high,
        }

    def problems(self) -> Sequence[str]:
        """In words."""
        problems = [self._rejection] if self._rejection else []
        if self._drift is not None and self._drift.drifted:
            problems.append(
                f"chunks fit worse than in calibration: {self._drift.high:.0%} of energies are "
                f"above what {100 - HIGH} % of expert chunks exceed"
            )
        return problems
