# SPDX-License-Identifier: Apache-2.0
"""What happens in demonstrated episodes: plans, noise, faults and outcomes, without pictures."""

from dataclasses import replace

import numpy as np
import pytest

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.scene import LOWER, UPPER
from vla_nodes.sim.tasks import CLEAR, parse_task, subtask_text
from vla_training.data.demonstrations.course import LINGER, run_episode
from vla_training.data.demonstrations.episode_plan import (
    FAULTS,
    EpisodePlan,
    FaultKind,
    Shares,
    plan_episode,
)
from vla_training.data.demonstrations.noise import Bursts, NoiseSettings

QUIET = NoiseSettings(noise_share=0.0)
FPS = 20


@pytest.fixture(scope="module")
def arm():
    arm = TabletopArm()
    yield arm
    arm.close()


def plan_of(fault: FaultKind | None = None, seed: int = 0, limit: float = 20.0) -> EpisodePlan:
    """One red cube and one blue one; the red one is wanted."""
    layout = LayoutOptions(colours=("red", "blue"))
    return EpisodePlan(subtask_text("red"), layout, seed, None, fault, 1.0, limit, seed)


class Watcher:
    """Notes after each frame what the arm's own truth is."""

    def __init__(self, arm: TabletopArm, plan: EpisodePlan, noise: NoiseSettings = QUIET) -> None:
        self.arm, self.plan = arm, plan
        self.steps, self.times, self.done, self.red, self.tool = [], [], [], [], []
        self.success = run_episode(arm, plan, noise, {}, FPS, self.note)
        self.states = np.array([step.state for step in self.steps])
        self.actions = np.array([step.action for step in self.steps])

    def note(self, step):
        self.steps.append(step)
        self.times.append(self.arm.time)
        self.done.append(self.arm.task_done(self.plan.task))
        self.red.append(self.arm.objects()["red_cube"][:3])
        self.tool.append(self.arm.tool_position)


def test_a_success_goes_on_for_a_moment(arm):
    seen = Watcher(arm, plan_of())
    assert seen.success
    first = seen.done.index(True)
    assert all(seen.done[first:])
    assert seen.times[-1] - seen.times[first] == pytest.approx(LINGER, abs=1e-6)
    assert seen.steps[0].subtask == subtask_text("red")


def test_frames_are_a_twentieth_of_a_second_apart(arm):
    seen = Watcher(arm, plan_of())
    np.testing.assert_allclose(np.diff(seen.times), 0.05, atol=1e-9)
    assert len(seen.steps) == round(seen.times[-1] * FPS)


def test_without_noise_the_action_is_the_command_in_force_at_the_next_frame(arm, monkeypatch):
    sent = []
    command = arm.command

    def watched(positions, velocities=None):
        sent.append((arm.time, positions))
        command(positions, velocities)

    monkeypatch.setattr(arm, "command", watched)
    seen = Watcher(arm, plan_of())
    for frame, action in enumerate(seen.actions):
        in_force = [positions for time, positions in sent if time < (frame + 1) / FPS - 1e-6][-1]
        np.testing.assert_allclose(action, in_force, atol=1e-9)


def test_noise_moves_the_arm_and_leaves_the_actions_clean(arm):
    noisy = Watcher(arm, plan_of(), NoiseSettings(noise_share=0.3, noise_size=0.08))
    clean = Watcher(arm, plan_of())
    assert noisy.success

    def off(seen):
        # How far the arm is from where the action before wanted it.
        return np.abs(seen.states[1:, :5] - seen.actions[:-1, :5]).max(axis=1)

    assert np.quantile(off(noisy), 0.9) > 3 * np.quantile(off(clean), 0.9)
    # No action follows a burst: they are no rougher than its way back.
    assert np.abs(np.diff(noisy.actions[:, :5], axis=0)).max() < 0.15


def test_an_episode_does_not_depend_on_what_the_arm_did_before(arm):
    plan = plan_episode(1, 5, Shares())
    Watcher(arm, plan_of("shaking", limit=4.0))
    arm.block(True)
    used = Watcher(arm, replace(plan, layout=LayoutOptions(colours=("red", "blue")), task=CLEAR))
    fresh = TabletopArm()
    expected = Watcher(fresh, used.plan)
    fresh.close()
    np.testing.assert_array_equal(used.states, expected.states)
    np.testing.assert_array_equal(used.actions, expected.actions)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_with_a_fault_the_task_is_not_done_when_the_operator_gives_up(arm, fault, seed):
    seen = Watcher(arm, plan_of(fault, seed, limit=7.0), NoiseSettings())
    assert not seen.success
    assert not any(seen.done)
    assert not arm.task_done(seen.plan.task)
    assert seen.times[-1] == pytest.approx(7.0)


def test_an_arm_that_puts_things_right_in_spite_of_a_fault_succeeds(arm):
    late = replace(plan_of("blocked"), onset=15.0)
    assert Watcher(arm, late).success


def test_a_blocked_arm_stands_still_while_actions_want_more(arm):
    seen = Watcher(arm, plan_of("blocked", limit=6.0))
    after = [time > 1.3 for time in seen.times]
    assert np.ptp(seen.states[after], axis=0).max() < 0.02
    assert np.abs(seen.actions[after] - seen.states[after]).max() > 0.03


def test_a_slipping_grip_drops_what_it_lifted(arm):
    seen = Watcher(arm, plan_of("slipping", limit=7.0))
    heights = np.array(seen.red)[:, 2]
    lifts = np.flatnonzero(np.diff((heights > 0.03).astype(int)) == 1)
    drops = np.flatnonzero(np.diff((heights > 0.03).astype(int)) == -1)
    assert len(drops) >= 2  # it tries again
    assert len(lifts) >= len(drops)


def test_a_knocked_cube_leaves_the_grip_and_stays_on_the_table(arm):
    seen = Watcher(arm, plan_of("knocked", limit=7.0))
    leaps = np.linalg.norm(np.diff(seen.red, axis=0), axis=1)
    assert (leaps > 0.07).any()
    assert np.array(seen.red)[:, 2].min() > 0.01


def test_an_arm_that_goes_astray_lowers_the_tool_beside_the_cube(arm):
    seen = Watcher(arm, plan_of("astray", limit=7.0))
    tool, red = np.array(seen.tool), np.array(seen.red)
    low = tool[:, 2] < 0.03
    assert low.any()
    assert np.linalg.norm((tool - red)[low, :2], axis=1).min() > 0.03


def test_a_misplaced_cube_lies_beside_the_tray(arm):
    seen = Watcher(arm, plan_of("misplaced", limit=9.0))
    tray = arm.objects()["tray"][:2]
    assert max(height for *_, height in seen.red) > 0.06  # it was carried
    assert 0.09 < np.linalg.norm(seen.red[-1][:2] - tray) < 0.22
    assert seen.red[-1][2] == pytest.approx(0.018, abs=3e-3)


def test_plans_come_in_the_shares_that_are_asked_for():
    plans = [plan_episode(9, i, Shares(failures=0.4, single=0.3)) for i in range(600)]
    assert np.mean([plan.fault is not None for plan in plans]) == pytest.approx(0.4, abs=0.06)
    assert np.mean([plan.task != CLEAR for plan in plans]) == pytest.approx(0.3, abs=0.06)
    assert np.mean([plan.start is not None for plan in plans]) == pytest.approx(0.5, abs=0.06)
    assert {plan.fault for plan in plans} == {None, *FAULTS}
    assert {len(plan.layout.colours) for plan in plans} == {1, 2, 3}
    for plan in plans:
        assert parse_task(plan.task, plan.layout.colours).colours
        assert plan.start is None or ((plan.start >= LOWER) & (plan.start <= UPPER)).all()
        assert 0.0 < plan.onset < plan.limit


def test_extreme_shares_leave_no_choice():
    plans = [plan_episode(2, i, Shares(0.0, 0.0, 0.0)) for i in range(50)]
    assert all((p.fault, p.task, p.start is None) == (None, CLEAR, True) for p in plans)


def test_a_plan_depends_on_seed_and_index_alone():
    def text(seed, index):
        return repr(plan_episode(seed, index, Shares()))

    assert text(1, 2) == text(1, 2)
    assert len({text(seed, index) for seed in range(3) for index in range(3)}) == 9


def test_an_arm_may_start_anywhere(arm):
    plan = next(p for p in (plan_episode(1, i, Shares()) for i in range(9)) if p.start is not None)
    steps = []
    run_episode(arm, replace(plan, limit=0.2), QUIET, {}, FPS, steps.append)
    np.testing.assert_allclose(steps[0].state, plan.start, atol=1e-9)
    assert np.abs(plan.start - HOME).max() > 0.1


@pytest.mark.parametrize("share", [0.06, 0.4])
def test_bursts_take_the_share_of_the_frames_that_is_asked_for(share):
    bursts = Bursts(NoiseSettings(share, 0.06), np.random.default_rng(0))
    offsets = np.array([bursts.draw() for _ in range(40000)])
    noisy = offsets[offsets.any(axis=1)]
    assert len(noisy) / len(offsets) == pytest.approx(share, rel=0.1)
    assert noisy[:, :5].std() == pytest.approx(0.06, rel=0.1)
    assert not offsets[:, 5].any()
