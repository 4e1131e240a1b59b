# SPDX-License-Identifier: Apache-2.0
"""The energy check in the whole graph, where one chunk in five makes no sense."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_run import FaultRun, draw
from faulty_policy import FaultyPolicy
from vla_interfaces.action import ExecuteTask

from vla_nodes.bringup.graph import BringupOptions, NodeSpec
from vla_nodes.contract import Contract
from vla_nodes.inference import PolicyOptions, Verdict
from vla_nodes.models.prompts import actor_prompt
from vla_nodes.observation.observation import Observation
from vla_nodes.sim.arm import HOME
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.scene import CUBE, PARKED_Z, TRAY_HOME

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "sim_arm_policy"
ENERGY = WEIGHTS / "energy"
TASK, SUBTASK = "clear the table", "put the red cube in the tray"
SCENE = [0.3, 0.1, CUBE / 2, 0.2, *[0.0, 0.0, PARKED_Z, 0.0] * 3, *TRAY_HOME]
RATE = 0.2
TABLES = range(3, 7)
PATIENT = {"transition_timeout": 200.0, "stall_timeout": 20.0}
OUTCOMES = {
    ExecuteTask.Result.OUTCOME_SUCCESS: "success",
    ExecuteTask.Result.OUTCOME_STALLED: "stalled",
    ExecuteTask.Result.OUTCOME_TIMED_OUT: "timed out",
    ExecuteTask.Result.OUTCOME_ABORTED: "aborted",
}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Has the graph's policy be a faulty one; returns its log."""

    def set_up(name: str = "faults", **faults: object) -> Path:
        log = tmp_path / f"{name}.jsonl"
        monkeypatch.setenv("FAULTS", json.dumps({"log": str(log), "rate": RATE, **faults}))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        module = NodeSpec.module.fget  # type: ignore[attr-defined]

        def other(node: NodeSpec) -> str:
            return "faulty_policy" if node.name == "policy" else module(node)

        monkeypatch.setattr(NodeSpec, "module", property(other))
        return log

    return set_up


def observe(contract: Contract, seed: int) -> Observation:
    random = np.random.default_rng(seed)
    images = {
        camera.name: random.integers(0, 256, (*camera.shape, 3), dtype=np.uint8)
        for camera in contract.cameras
    }
    state = HOME + random.uniform(-0.05, 0.0, len(HOME))
    extras = {"scene": np.array(SCENE)}
    return Observation(10**18 + seed * 10**8, images, state, extras, {}, {})


@pytest.mark.parametrize("good", ["own", "expert"])
def test_a_faulty_policy_has_what_it_spoils_judged_and_logs_it(
    contract: Contract,
    pi05_folder: Path,
    energy_folder: Callable[..., Path],
    faulty: Callable[..., Path],
    good: str,
) -> None:
    log = faulty(good=good, seed=1)
    threshold = 0.5  # some are above, and some below
    options = PolicyOptions(energy=str(energy_folder(threshold)), candidates=2, resamples=1)
    policy = FaultyPolicy(contract, str(pi05_folder), "cpu", options)
    inner = policy._policy
    plans = []
    for seed in range(40):
        seen = observe(contract, seed)
        plans.append(plan := policy.act(seen, SUBTASK))
        # What was sent is judged once more, alone.
        prompt = inner._tokens(actor_prompt(SUBTASK, inner._bins(seen), inner._positive))
        chunk = torch.from_numpy(policy._scaling.normalise(plan.actions))[None]
        (energy,) = inner._engine.judge(inner._features(seen), prompt, chunk).tolist()
        assert energy == pytest.approx(plan.energy, abs=1e-5)
    run = FaultRun.read(log, [], contract.dt, "")
    for seed, (line, plan) in enumerate(zip(run.lines, plans, strict=True)):
        drawn = line["drawn"]
        assert len(drawn) == 2 * (1 + plan.resamples)
        assert plan.energy == min(one["energy"] for one in drawn) == drawn[line["sent"]]["energy"]
        assert (plan.verdict == Verdict.ACCEPTED) == (plan.energy <= threshold)
        assert line["verdict"] == plan.verdict
        if good == "expert":
            seen = observe(contract, seed)
            expected, _ = ScriptedExpert().plan(
                seen.state, seen.extras["scene"], SUBTASK, 20, contract.dt
            )
            np.testing.assert_allclose(line["good"], expected, atol=1e-6)
        if drawn[line["sent"]]["fault"] == "motion":
            ways = np.diff(plan.actions, axis=0)
            np.testing.assert_allclose(ways, ways[:1].repeat(19, 0), atol=1e-6)
        if drawn[line["sent"]]["fault"] == "" and good == "expert":
            np.testing.assert_allclose(plan.actions, expected, atol=1e-6)
    assert {plan.verdict for plan in plans} == {Verdict.ACCEPTED, Verdict.REJECTED}
    faults = [one["fault"] for line in run.lines for one in line["drawn"]]
    assert {*faults} == {"", "noise", "motion"}
    assert 0.1 < np.mean([fault != "" for fault in faults]) < 0.3
    assert run.stopped("", "noise", "motion").total == 40


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not ENERGY.is_dir(), reason=f"needs a trained policy and its check: {ENERGY}")
@pytest.mark.parametrize("good", ["own", "expert"])
def test_the_check_stops_what_makes_no_sense_and_little_else(
    launch: Callable, faulty: Callable, contract: Contract, tmp_path: Path, good: str
) -> None:
    def drive(name: str, rate: float, obeyed: bool, resamples: int) -> FaultRun:
        runs = []
        options = BringupOptions(backend="pi05", checkpoint=str(WEIGHTS), energy=str(ENERGY))
        parameters = {"supervisor": PATIENT, "policy": {"resamples": resamples}}
        for seed in TABLES:
            log = faulty(f"{name} {seed}", good=good, rate=rate, obeyed=obeyed, seed=seed)
            # A graph for each: an arm that stopped on its way would go back there.
            with launch(options, parameters) as graph:
                client = graph.client
                client.wait_until_ready(200.0)
                client.reset_simulation(seed, cubes=2)
                client.wait_until_ready(30.0)
                result = client.execute(TASK, 60.0)
                assert result.outcome in OUTCOMES, result.message  # it began
                client.check_limits(contract)
            run = FaultRun.read(log, client.commands, contract.dt, OUTCOMES[result.outcome])
            print(f"{name}, table {seed}: {result.message}; {run}")
            runs.append(run)
        run = FaultRun.joined(runs)
        print(f"{name}: {run}")
        return run

    clean = drive("no faults", 0.0, obeyed=True, resamples=2)
    unchecked = drive("check off", RATE, obeyed=False, resamples=0)
    checked = drive("check on", RATE, obeyed=True, resamples=2)
    draw(unchecked, checked, tmp_path / f"energy_{good}.png")
    assert checked.stopped("noise", "motion").value > 0.8
    assert checked.followed().value < 0.25 * unchecked.followed().value
    assert np.percentile(checked.strayed()[1], 99) < np.percentile(unchecked.strayed()[1], 99)
    assert "aborted" not in checked.ended
    if good == "expert":
        # A good chunk that is stopped where the arm stands can stay so.
        assert clean.ended.count("success") >= len(TABLES) - 1
