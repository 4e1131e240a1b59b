# SPDX-License-Identifier: Apache-2.0
"""What can be done to the arm and its table while it runs."""

import numpy as np
import pytest

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.expert import ScriptedExpert
from vla_nodes.sim.kinematics import DOWN, inverse
from vla_nodes.sim.layout import AREA, LayoutOptions
from vla_nodes.sim.rollout import Timing, rollout
from vla_nodes.sim.scene import CUBE
from vla_nodes.sim.tasks import CLEAR

SPEED = np.array([0.5, -0.4, 0.3, 0.2, 0.6, 0.0])  # rad/s


@pytest.fixture(scope="module")
def arm():
    arm = TabletopArm()
    yield arm
    arm.close()


def planner(state, scene, task):
    return ScriptedExpert().plan(state, scene, task)[0]


def drive(arm, seconds):
    """Command a steady motion from where the arm is; returns the way (6,) that it came."""
    start = arm.joint_positions
    for tick in range(round(seconds / 0.01)):
        arm.command(start + SPEED * 0.01 * (tick + 1), SPEED)
        arm.advance(2)
    return arm.joint_positions - start


def centre(arm, colour):
    return arm.objects()[f"{colour}_cube"][:3]


def carry(arm, seed):
    """Have the expert lift a cube; returns its colour."""
    arm.reset(seed, LayoutOptions(cubes=3))
    for _ in range(40):
        rollout(arm, planner, CLEAR, Timing(limit=0.2))
        for colour in arm.colours:
            if centre(arm, colour)[2] > 0.06:
                return colour
    raise AssertionError("no cube was lifted")


def test_a_blocked_arm_stays_and_a_freed_one_follows(arm):
    arm.reset(0)
    free = drive(arm, 1.0)
    arm.reset(0)
    drive(arm, 0.3)  # blocked in motion
    arm.block(True)
    assert np.abs(drive(arm, 1.0)).max() < 0.03
    arm.block(False)
    np.testing.assert_allclose(drive(arm, 1.0), free, atol=0.03)


def test_blocking_twice_holds_the_first_place(arm):
    arm.reset(0)
    for _ in range(20):
        arm.block(True)
        drive(arm, 0.2)
    assert np.abs(arm.joint_positions - HOME).max() < 0.03


def test_a_reset_frees_the_arm(arm):
    arm.reset(0)
    arm.block(True)
    arm.reset(0)
    assert np.abs(drive(arm, 1.0)).max() > 0.3


def test_a_blocked_arm_keeps_its_grip(arm):
    colour = carry(arm, 1)
    before = centre(arm, colour)
    arm.block(True)
    for _ in range(100):
        arm.command(np.append(HOME[:5], 0.04))
        arm.advance(2)
    assert np.linalg.norm(centre(arm, colour) - before) < 0.02


def test_a_command_to_a_blocked_arm_is_still_checked(arm):
    arm.reset(0)
    arm.block(True)
    with pytest.raises(ValueError, match="must hold 6 finite numbers"):
        arm.command(np.full(6, np.nan))


@pytest.mark.parametrize("seed", range(4))
def test_the_held_cube_is_knocked_to_a_free_place_on_the_table(arm, seed):
    colour = carry(arm, seed)
    before = {c: centre(arm, c) for c in arm.colours}
    assert arm.knock() == colour
    arm.advance(200)
    lies = centre(arm, colour)
    assert (lies[:2] > AREA[0] - 0.01).all()
    assert (lies[:2] < AREA[1] + 0.01).all()
    assert lies[2] == pytest.approx(CUBE / 2, abs=2e-3)
    assert np.linalg.norm((lies - before[colour])[:2]) > 0.08
    for other in set(arm.colours) - {colour}:
        np.testing.assert_allclose(centre(arm, other), before[other], atol=2e-3)


def test_the_cube_nearest_to_the_tool_is_knocked_where_none_is_held(arm):
    for colours in (("red", "blue"), ("blue", "red")):
        arm.reset(0, LayoutOptions(colours=("red", "blue")))
        x, y, z = centre(arm, colours[0])
        arm.place_arm(np.append(inverse(np.array([x, y, z + 0.08, DOWN, 0.0]), HOME), 0.04))
        assert arm.knock() == colours[0]


def test_a_knocked_cube_is_fetched_again(arm):
    carry(arm, 2)
    arm.knock()
    assert rollout(arm, planner, CLEAR, Timing(limit=40.0)).success


def test_the_same_seed_knocks_the_same_way(arm):
    places = []
    for _ in range(2):
        carry(arm, 3)
        arm.knock()
        places.append(centre(arm, arm.colours[0]).tolist())
    assert places[0] == places[1]


def test_there_must_be_a_cube_to_knock(arm):
    arm.reset(0, LayoutOptions(colours=("red",)))
    arm.place("red_cube", arm.objects()["tray"][:3] + np.array([0.0, 0.0, 0.021]))
    with pytest.raises(ValueError, match="no cube lies outside the tray"):
        arm.knock()
