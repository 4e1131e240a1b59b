# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.expert import Scene, ScriptedExpert
from vla_nodes.sim.kinematics import DOWN, inverse
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.rollout import Timing, rollout
from vla_nodes.sim.scene import JOINTS, scene_names
from vla_nodes.sim.tasks import CLEAR, subtask_text

CONTRACT = Path(__file__).parents[2] / "config/contracts/sim_arm.yaml"


@pytest.fixture(scope="module")
def arm():
    return TabletopArm()


def planner(state, scene, task):
    return ScriptedExpert().plan(state, scene, task)[0]


def run_single(arm, seed, timing=Timing()):  # noqa: B008
    arm.reset(seed, LayoutOptions(cubes=1 + seed % 4, distractors=seed % 3))
    return rollout(arm, planner, subtask_text(arm.colours[seed % len(arm.colours)]), timing)


@pytest.mark.parametrize("seed", range(4))
def test_the_expert_puts_a_cube_into_the_tray(arm, seed):
    assert run_single(arm, seed).success


@pytest.mark.parametrize("seed", range(2))
def test_the_expert_clears_the_table(arm, seed):
    arm.reset(seed, LayoutOptions(cubes=3 + seed))
    assert rollout(arm, planner, CLEAR, Timing(limit=40.0)).success


@pytest.mark.slow
def test_the_expert_hardly_ever_fails_a_single_cube(arm):
    assert sum(run_single(arm, seed).success for seed in range(100, 200)) >= 99


@pytest.mark.slow
def test_the_expert_hardly_ever_fails_to_clear_the_table(arm):
    done = 0
    for seed in range(30):
        arm.reset(seed, LayoutOptions(cubes=2 + seed % 3, distractors=seed % 2))
        done += rollout(arm, planner, CLEAR, Timing(limit=60.0)).success
    assert done == 30


@pytest.mark.parametrize("timing", [Timing(replan=0.05, delay=0.0), Timing(replan=0.4, delay=0.15)])
def test_the_expert_bears_fast_and_slow_loops(arm, timing):
    assert run_single(arm, 11, timing).success


def test_the_motion_stays_within_the_contract(arm):
    limits = yaml.safe_load(CONTRACT.read_text())["actions"]["arm"]["limits"]["joints"]
    for seed in range(3):
        outcome = run_single(arm, seed)
        for i, joint in enumerate(JOINTS):
            assert outcome.peak_velocity[i] < limits[joint]["velocity"]
            assert outcome.peak_acceleration[i] < limits[joint]["acceleration"]


def test_the_arm_follows_closely(arm):
    outcome = run_single(arm, 3)
    lag = np.abs(outcome.commands[:-1] - outcome.measured[1:])[:, :5]
    assert lag.max() < 0.02


def test_a_chunk_planned_on_the_way_continues_the_one_before(arm):
    arm.reset(2)
    scene, task = arm.scene_vector(), CLEAR
    chunk = planner(HOME, scene, task)
    for k in (1, 4, 9):
        later = planner(chunk[k - 1], scene, task)
        np.testing.assert_allclose(later[: 16 - k], chunk[k:], atol=1e-9)


def test_the_subtask_is_told(arm):
    arm.reset(0, LayoutOptions(colours=("green", "yellow")))
    expert = ScriptedExpert()
    assert expert.plan(HOME, arm.scene_vector(), CLEAR)[1] == subtask_text("green")
    tray = arm.objects()["tray"][:3]
    arm.place("green_cube", tray + np.array([0.0, 0.0, 0.021]))
    assert expert.plan(HOME, arm.scene_vector(), CLEAR)[1] == subtask_text("yellow")


def test_when_all_is_done_the_arm_goes_home_and_stays(arm):
    assert run_single(arm, 4).success
    task = subtask_text(arm.colours[0])
    state = arm.joint_positions
    for _ in range(8):
        state = planner(state, arm.scene_vector(), task)[-1]
    np.testing.assert_allclose(state, HOME, atol=2e-3)
    np.testing.assert_allclose(planner(HOME, arm.scene_vector(), task)[-1], HOME, atol=1e-4)


def test_a_cube_that_is_moved_meanwhile_is_found_again(arm):
    arm.reset(0, LayoutOptions(colours=("red",)))

    def moved(state, scene, task):
        if abs(arm.time - 1.0) < 1e-6:
            arm.place("red_cube", np.array([0.33, 0.16, 0.018]), yaw=0.5)
        return planner(state, scene, task)

    assert rollout(arm, moved, subtask_text("red")).success


def test_a_gripper_closed_beside_the_cube_tries_again(arm):
    arm.reset(0, LayoutOptions(colours=("red",)))
    cube = arm.objects()["red_cube"][:3]
    beside = np.array([*(cube + np.array([0.0, 0.045, 0.0])), DOWN, 0.0])
    arm.place_arm(np.append(inverse(beside, HOME), 0.002))
    assert rollout(arm, planner, subtask_text("red")).success


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_takes_over_from_any_pose(arm, seed):
    arm.reset(seed)
    pose = np.array([0.3, 0.25, 0.2, DOWN + 0.6, 1.0])
    arm.place_arm(np.append(inverse(pose, HOME), 0.01 * seed))
    assert rollout(arm, planner, CLEAR).success


def test_a_cube_that_a_new_task_does_not_want_is_set_down(arm):
    arm.reset(0, LayoutOptions(colours=("red", "blue")))
    rollout(arm, planner, subtask_text("red"), Timing(limit=2.2))
    assert arm.progress(subtask_text("red")) > 0.4
    highest = arm.objects()["red_cube"][2]
    assert highest > 0.04
    assert rollout(arm, planner, subtask_text("blue")).success
    assert arm.in_tray() == ("blue",)
    assert arm.objects()["red_cube"][2] == pytest.approx(0.018, abs=2e-3)


def test_a_cube_goes_where_the_tray_has_room(arm):
    arm.reset(0, LayoutOptions(colours=("red", "blue")))
    assert rollout(arm, planner, subtask_text("blue")).success
    blue = arm.objects()["blue_cube"][:3]
    arm.reset(0, LayoutOptions(colours=("red", "blue")))
    arm.place("red_cube", blue)
    assert rollout(arm, planner, CLEAR).success
    assert arm.in_tray() == ("red", "blue")


def test_absent_cubes_and_unknown_tasks_are_refused(arm):
    arm.reset(0, LayoutOptions(colours=("red",)))
    expert, scene = ScriptedExpert(), arm.scene_vector()
    with pytest.raises(ValueError, match=r"no blue cube; present are \['red'\]"):
        expert.plan(HOME, scene, subtask_text("blue"))
    with pytest.raises(ValueError, match="unknown task 'dance'"):
        expert.plan(HOME, scene, "dance")
    with pytest.raises(ValueError, match="must hold 6 finite joint positions"):
        expert.plan(HOME[:5], scene, CLEAR)
    with pytest.raises(ValueError, match="must hold 18 finite numbers"):
        expert.plan(HOME, scene[:-1], CLEAR)


def test_the_scene_vector_is_understood_by_name(arm):
    arm.reset(0, LayoutOptions(colours=("blue",)))
    vector = dict(zip(scene_names(), arm.scene_vector(), strict=True))
    scene = Scene.from_vector(arm.scene_vector())
    assert set(scene.cubes) == {"blue"}
    assert scene.cubes["blue"].tolist() == [
        vector[f"blue_cube.{k}"] for k in ("x", "y", "z", "yaw")
    ]
    assert scene.tray.tolist() == [vector["tray.x"], vector["tray.y"]]
