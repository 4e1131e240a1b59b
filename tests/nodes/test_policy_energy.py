# SPDX-License-Identifier: Apache-2.0
"""What the policy node makes of verdicts: messages, figures and warnings."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from test_policy_node import FakePolicy, Rig
from vla_interfaces.msg import ActionChunk

from vla_nodes.bringup.graph import find_contract
from vla_nodes.inference import ActionPlan, Verdict
from vla_nodes.models.energy_calibration import EnergyCalibration, Threshold
from vla_nodes.nodes import policy as module
from vla_nodes.nodes.diagnostics import OK, WARN
from vla_nodes.nodes.energy_figures import EnergyFigures
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.nodes.policy import PolicyNode
from vla_nodes.nodes.policy_parameters import PolicyParameters

THRESHOLD = 1.5


def plan(energy: float, resamples: int = 0) -> ActionPlan:
    verdict = Verdict.REJECTED if energy > THRESHOLD else Verdict.ACCEPTED
    return ActionPlan(np.zeros((4, 6)), False, energy, THRESHOLD, verdict, resamples)


class Judging(FakePolicy):
    """Gives the plan that the test says."""

    plan = plan(0.5)

    def act(self, *_: object) -> ActionPlan:
        self._call("act")
        return self.plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a calibration alone, which is all that the node itself reads of an energy model."""
    quantiles = tuple(np.linspace(0.1, 2.1, 101).tolist())
    EnergyCalibration(0.05, Threshold(THRESHOLD, 100), {}, quantiles).write(tmp_path)
    return tmp_path


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Rig]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(module, "load_policy", lambda *_: Judging())
    rclpy.init()
    node = PolicyNode()
    node.parameters = PolicyParameters(contract=str(find_contract("sim_arm")), energy=str(folder))
    node.configure(node.parameters)
    rig = Rig(node, node._policy)
    rig.give(1)
    yield rig
    node.destroy_node()
    rclpy.shutdown()


def test_a_chunk_carries_its_verdict(rig: Rig) -> None:
    for energy in (0.5, 1.75):
        rig.policy.plan = plan(energy)
        rig.step()
    verdicts = [(chunk.energy, chunk.threshold, chunk.verdict) for chunk in rig.chunks]
    assert verdicts == [
        (0.5, THRESHOLD, ActionChunk.VERDICT_ACCEPTED),
        (1.75, THRESHOLD, ActionChunk.VERDICT_REJECTED),
    ]


def test_verdicts_are_counted_and_a_rejection_is_told_until_a_chunk_is_accepted(rig: Rig) -> None:
    for one in (plan(0.5), plan(1.0, resamples=2), plan(1.75, resamples=2)):
        rig.policy.plan = one
        rig.step()
    health = rig.node.health()
    assert health.level == WARN
    assert "rejected the last chunk: energy 1.75 is above 1.5" in health.message
    counts = {
        name: health.values[f"chunks_{name}"] for name in ("accepted", "resampled", "rejected")
    }
    assert counts == {"accepted": 2, "resampled": 2, "rejected": 1}
    assert health.values["energy_p50"] == 1.0
    assert health.values["energy_p95"] == pytest.approx(np.percentile([0.5, 1.0, 1.75], 95))
    rig.policy.plan = plan(0.5)
    rig.step()
    health = rig.node.health()
    assert health.level == OK
    assert health.values["chunks_accepted"] == 3


def test_a_rejection_by_little_is_told_with_digits_that_differ(rig: Rig) -> None:
    rig.policy.plan = plan(THRESHOLD + 1e-4)
    rig.step()
    assert "energy 1.5001 is above 1.5" in rig.node.health().message


def test_energies_that_drift_are_told_with_their_share(rig: Rig) -> None:
    rig.policy.plan = plan(1.95)  # the calibration's quantiles lie evenly from 0.1 to 2.1
    for _ in range(240):
        rig.step()
    health = rig.node.health()
    assert health.level == WARN
    assert "chunks fit worse than in calibration: 100% of energies" in health.message
    assert health.values["energies_high"] == 1.0


def test_no_chunk_without_a_verdict_leaves_a_node_that_has_a_check(rig: Rig) -> None:
    rig.policy.plan = ActionPlan(np.zeros((4, 6)))
    rig.now += 10**9
    rig.node._work(rig.stop)  # comes back
    assert "a chunk has no verdict" in rig.node._failure
    assert not rig.chunks


def test_without_a_check_nothing_is_reported() -> None:
    figures = EnergyFigures("")
    figures.add(ActionPlan(np.zeros((4, 6))))
    assert not figures.values()
    assert not figures.problems()


def test_before_the_first_chunk_there_are_no_energies(folder: Path) -> None:
    values = EnergyFigures(str(folder)).values()
    assert math.isnan(values["energy_p50"])  # type: ignore[arg-type]
    assert values["chunks_rejected"] == 0


def test_a_calibration_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "calibration.json").write_text("[]")
    with pytest.raises(ParameterError, match=r"calibration\.json"):
        EnergyFigures(str(folder))
