# SPDX-License-Identifier: Apache-2.0
"""pi0.5 with an energy check: what it sends, what it refuses, and that no chunk goes unchecked."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_pi05_policy import Calls, by_hand, chunks, make, observe

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import Contract, load_contract
from vla_nodes.inference import PolicyError, PolicyOptions, Verdict, backends
from vla_nodes.inference.energy_check import load_energy
from vla_nodes.inference.pi05_policy import Pi05Policy
from vla_nodes.models.checkpoint import load_model as load_policy_model
from vla_nodes.models.checkpoint import read_checkpoint, write_checkpoint
from vla_nodes.models.energy_checkpoint import load_energy_model, read_energy_checkpoint

START = 10**18  # ns
ALL, NONE = 3.0, 0.0
"""Thresholds above and below every energy."""


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(find_contract("sim_arm"))


def energies_by_hand(energy: Path, policy: Path, observation: Any, text: str, actions: Any) -> Any:
    """Of chunks (K, T, A) in the robot's units, over the plain model's hidden states."""
    model, views, prompt = by_hand(policy, observation, text)
    judge = load_energy_model(read_energy_checkpoint(energy))
    scaling = read_checkpoint(policy).normalization.action
    low, high = np.array(scaling.low), np.array(scaling.high)
    chunks = torch.tensor(2 * (actions - low) / (high - low) - 1, dtype=torch.float32)
    with torch.no_grad():
        hidden, there, _ = model.prefix(views, model.embed_pictures(views), prompt)
        return judge.swapped(judge.context(hidden, ~there), chunks)[0].numpy()


def test_the_energy_is_that_of_the_chunk_in_the_plain_models_context(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL)
    policy = make(contract, pi05_folder, energy=str(folder), candidates=4)
    observation = observe(contract)
    plan = policy.act(observation, "wave")
    prompt = "Task: wave, State: {state};\nAction: "
    there = energies_by_hand(folder, pi05_folder, observation, prompt, plan.actions[None])
    assert plan.energy == pytest.approx(there[0], abs=1e-5)
    assert (plan.threshold, plan.verdict, plan.resamples) == (ALL, Verdict.ACCEPTED, 0)


def test_of_several_candidates_the_one_that_fits_best_is_sent(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL)
    policy = make(contract, pi05_folder, energy=str(folder), candidates=6)
    seen = []
    engine = policy._engine
    act = engine.act
    engine.act = lambda *a, **k: seen.append(act(*a, **k)) or seen[-1]  # type: ignore[method-assign]
    plan = policy.act(observe(contract), "wave")
    (drawn,) = seen
    assert plan.energy == pytest.approx(float(drawn.energies.min()))
    best = drawn.actions[drawn.energies.argmin()].numpy()
    expected = policy._normalization.action.restore(best[:, :6])
    np.testing.assert_array_equal(plan.actions, expected)
    assert drawn.energies.argmin() > 0  # or the first of them would do as well


def test_a_rejected_chunk_is_drawn_again_and_marked_without_another_look(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    policy = make(contract, pi05_folder, energy=str(energy_folder(NONE)), resamples=3)
    calls = Calls(policy)
    plan = policy.act(observe(contract), "wave")
    assert (plan.verdict, plan.resamples) == (Verdict.REJECTED, 3)
    assert plan.energy > plan.threshold == NONE
    assert calls.names == ["encode", "act", "again", "again", "again"]


def test_the_threshold_is_that_of_the_task_that_was_planned(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL, {"clear the table": NONE})
    policy = make(contract, pi05_folder, energy=str(folder))
    observation = observe(contract)
    assert policy.act(observation, "wave").threshold == ALL
    policy.plan_subtask(observation, "clear the table")
    assert policy.act(observation, "wave").verdict == Verdict.REJECTED
    policy.plan_subtask(observation, "tidy up")
    assert policy.act(observation, "wave").verdict == Verdict.ACCEPTED
    policy.plan_subtask(observation, "clear the table")
    policy.reset()
    assert policy.act(observation, "wave").threshold == ALL


def test_no_chunk_continues_one_that_was_rejected(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL, {"bad": NONE})
    policy = make(contract, pi05_folder, energy=str(folder), real_time="guided")
    calls = Calls(policy)

    def act(task: str, number: int) -> Any:
        observation = observe(contract, number, START + number * 100_000_000)
        policy.plan_subtask(observation, task)
        plan = policy.act(observation, "wave")
        asked = [kwargs for kwargs in calls.arguments if "decided" in kwargs][-1]
        return plan.actions, asked["decided"]

    assert act("bad", 0)[1] is None
    _, decided = act("good", 1)
    assert decided is None  # although there was a chunk
    followed, decided = policy._last[1], act("bad", 2)[1]
    np.testing.assert_allclose(decided, followed[2:], atol=1e-6)
    _, decided = act("good", 3)
    np.testing.assert_allclose(decided, followed[4:], atol=1e-6)


def test_a_corrected_chunk_follows_the_slope_within_the_robots_limits(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL)
    plans = [
        make(contract, pi05_folder, energy=str(folder), correction_steps=steps, correction_rate=2.0)
        for steps in (0, 5)
    ]
    plain, corrected = (policy.act(observe(contract), "wave") for policy in plans)
    assert corrected.energy == plain.energy
    both = np.stack([plain.actions, corrected.actions])
    prompt = "Task: wave, State: {state};\nAction: "
    before, after = energies_by_hand(folder, pi05_folder, observe(contract), prompt, both)
    assert after < before - 1e-3
    low = np.array([limit.lower for limit in contract.limits])
    high = np.array([limit.upper for limit in contract.limits])
    assert (corrected.actions >= low - 1e-6).all()
    assert (corrected.actions <= high + 1e-6).all()


@pytest.mark.parametrize("real_time", ["trained", "guided"])
def test_a_correction_leaves_what_will_be_past_as_it_was_drawn(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, real_time: Any
) -> None:
    options = {"correction_steps": 5, "correction_rate": 2.0, "real_time": real_time}
    policy = make(contract, pi05_folder, energy=str(energy_folder(ALL)), **options)
    drawn = []
    act = policy._engine.act
    policy._engine.act = lambda *a, **k: drawn.append(act(*a, **k)) or drawn[-1]  # type: ignore[method-assign]
    _, sent = chunks(policy, contract, passed=0.1, seconds=0.12)  # three actions late
    plain = policy._normalization.action.restore(drawn[-1].actions[0, :, :6].numpy())
    np.testing.assert_array_equal(sent[:3], plain[:3])
    assert (sent[3:, :5] != plain[3:, :5]).any(axis=1).all()


@pytest.mark.parametrize("fault", ["raises", "nan", "none"])
def test_where_the_check_fails_there_is_no_chunk(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, fault: str
) -> None:
    policy = make(contract, pi05_folder, energy=str(energy_folder(ALL)))
    energy = policy._engine._actor.energy
    assert energy is not None
    if fault == "raises":
        energy.energies = lambda *_: 1 / 0  # type: ignore[method-assign]
    elif fault == "nan":
        energy.checks = False  # as on a GPU
        energy.prediction_head.fc2.bias.data.fill_(torch.nan)
    else:
        act = policy._engine.act
        policy._engine.act = lambda *a, **k: replace(act(*a, **k), energies=None)  # type: ignore[method-assign]
    with pytest.raises((RuntimeError, ArithmeticError)):
        policy.act(observe(contract), "wave")


def test_an_energy_model_that_cannot_compute_is_found_before_there_is_work(
    contract: Contract, pi05_folder: Path, energy_folder: Callable
) -> None:
    folder = energy_folder(ALL, name="broken")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["state_linear.fc1.weight"].fill_(3e38)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PolicyError, match=r"(?s)does not run.*energy model"):
        make(contract, pi05_folder, energy=str(folder))


def test_an_energy_model_that_does_not_fit_is_refused_in_one_line(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, tmp_path: Path
) -> None:
    names = contract.action_names
    cases: list[tuple[Path, str]] = [
        (tmp_path / "none", "expected that of an energy model"),
        (energy_folder(name="raw"), "was not calibrated"),
        (energy_folder(ALL, name="b", chunk=10), "chunks of 10 actions, the policy's have 20"),
        (energy_folder(ALL, name="c", fps=10.0), "10 actions a second, 'sim_arm' takes 20"),
        (
            energy_folder(ALL, name="d", action_names=names[::-1]),
            f"the energy model's joints are {', '.join(names[::-1])}; those of 'sim_arm' are",
        ),
        (energy_folder(ALL, name="e", policy="0" * 64), "was trained with another policy"),
        (pi05_folder, "was not calibrated"),
    ]
    for folder, words in cases:
        with pytest.raises(PolicyError) as error:
            make(contract, pi05_folder, energy=str(folder))
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_policy_that_was_trained_further_needs_another_energy_model(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, tmp_path: Path
) -> None:
    folder = energy_folder(ALL)
    old = read_checkpoint(pi05_folder)
    model = load_policy_model(old)
    with torch.no_grad():
        model.action_out_proj.bias.add_(1e-3)
    later = tmp_path / "later"
    write_checkpoint(later, model, old.config, old.robot, old.normalization, old.tokenizer)
    with pytest.raises(PolicyError, match="an earlier state of it"):
        make(contract, later, energy=str(folder))


def test_a_correction_without_an_energy_model_is_refused(
    contract: Contract, pi05_folder: Path
) -> None:
    with pytest.raises(PolicyError, match="no energy model to follow"):
        make(contract, pi05_folder, correction_steps=2)


@pytest.mark.parametrize("made", ["make_lerobot", "expert"])
def test_backends_without_an_energy_check_refuse_one(
    contract: Contract, act_folder: Path, made: str
) -> None:
    from vla_nodes.sim.expert_policy import ExpertPolicy

    make_it = ExpertPolicy if made == "expert" else getattr(backends, made)
    with pytest.raises(PolicyError, match="takes no 'energy'; found '/energy'"):
        make_it(contract, str(act_folder), "cpu", PolicyOptions(energy="/energy"))


def test_a_damaged_calibration_is_named(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, tmp_path: Path
) -> None:
    folder = shutil.copytree(energy_folder(ALL), tmp_path / "copy")
    content = json.loads((folder / "calibration.json").read_text())
    content["pooled"]["energy"] = float("nan")
    (folder / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(PolicyError, match=r"calibration\.json"):
        Pi05Policy(contract, str(pi05_folder), "cpu", PolicyOptions(energy=str(folder)))


def test_a_check_that_can_reject_nothing_is_warned_of_when_it_is_loaded(
    contract: Contract, pi05_folder: Path, energy_folder: Callable, caplog: Any
) -> None:
    for threshold, tasks in ((1.5, {"wave": 1.0}), (1.5, {"wave": 2.1, "bow": 1.0})):
        folder = energy_folder(threshold, tasks)
        load_energy(folder, pi05_folder, contract, 20)
    (warning,) = caplog.messages
    assert warning == (
        f"{folder}: no chunk can be rejected for 'wave': the threshold is where energies end, 2.1; "
        "train another energy model and calibrate it"
    )
