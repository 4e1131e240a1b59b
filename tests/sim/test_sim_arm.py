# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.kinematics import DOWN, inverse
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.mjcf import mjcf
from vla_nodes.sim.scene import (
    COLOURS,
    JOINTS,
    LOWER,
    PARKED_Z,
    TIMESTEP,
    TRAY_INNER,
    UPPER,
    VELOCITY,
    scene_names,
)
from vla_nodes.sim.tasks import CLEAR, subtask_text

CONTRACT = Path(__file__).parents[2] / "config/contracts/sim_arm.yaml"
RED = subtask_text("red")
ABOVE = np.array([0.0, 0.0, 0.08])
PAN = np.eye(6)[0]


@pytest.fixture(scope="module")
def shared_arm():
    arm = TabletopArm()
    yield arm
    arm.close()


@pytest.fixture
def arm(shared_arm):
    shared_arm.reset(0, LayoutOptions(colours=("red", "blue")))
    return shared_arm


def put_red(arm, offset, z):
    arm.place("red_cube", arm.objects()["tray"][:3] + np.array([*offset, z]))


def tool_at(position, gripper):
    return np.append(inverse(np.array([*position, DOWN, 0.0]), HOME), gripper)


def test_the_contract_states_the_same_joints_and_limits():
    action = yaml.safe_load(CONTRACT.read_text())["actions"]["arm"]
    limits = action["limits"]["joints"]
    assert tuple(action["joints"]) == JOINTS
    assert [limits[j]["position"] for j in JOINTS] == np.transpose([LOWER, UPPER]).tolist()
    assert [limits[j]["velocity"] for j in JOINTS] == VELOCITY.tolist()


def test_the_same_seed_makes_the_same_run(arm):
    def run():
        arm.reset(7, LayoutOptions(cubes=3, distractors=2, light_jitter=0.2, camera_jitter=0.02))
        arm.command(HOME + 0.1)
        arm.advance(100)
        return arm.joint_positions, arm.scene_vector(), arm.render("front")

    first, second = run(), run()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_jitter_does_not_add_up_over_resets(arm):
    before = arm.render("front")
    arm.reset(1, LayoutOptions(light_jitter=0.3, camera_jitter=0.05))
    arm.reset(0, LayoutOptions(colours=("red", "blue")))
    np.testing.assert_array_equal(arm.render("front"), before)


def test_absent_objects_stay_parked(arm):
    arm.advance(400)
    vector = dict(zip(scene_names(), arm.scene_vector(), strict=True))
    assert arm.colours == ("red", "blue")
    assert vector["green_cube.z"] == vector["yellow_cube.z"] == PARKED_Z
    assert vector["red_cube.z"] == pytest.approx(0.018, abs=1e-3)


@settings(deadline=None, max_examples=50)
@given(yaw=st.floats(-10, 10))
def test_the_yaw_of_a_cube_is_told_up_to_its_symmetry(shared_arm, yaw):
    shared_arm.place("red_cube", np.array([0.3, 0.1, 0.018]), yaw)
    told = shared_arm.scene_vector()[scene_names().index("red_cube.yaw")]
    assert -np.pi / 4 - 1e-9 < told <= np.pi / 4 + 1e-9
    turns = (told - yaw) / (np.pi / 2)
    assert turns == pytest.approx(round(turns), abs=1e-6)


def test_time_passes_by_steps(arm):
    arm.advance(30)
    assert arm.time == pytest.approx(30 * TIMESTEP)


def test_the_arm_holds_still_under_gravity(arm):
    arm.advance(400)
    np.testing.assert_allclose(arm.joint_positions, HOME, atol=1e-6)


def test_both_fingers_move_as_one(arm):
    arm.command(np.append(HOME[:5], 0.01))
    arm.advance(200)
    left, right = (arm._data.body(f"{side}_finger").xpos for side in ("left", "right"))
    middle = arm.tool_position[:2]
    np.testing.assert_allclose((left[:2] + right[:2]) / 2, middle, atol=1e-4)
    assert np.linalg.norm(left - right) == pytest.approx(2 * (0.01 + 0.005), abs=2e-4)


@pytest.mark.parametrize(
    "bad", [np.full(6, np.nan), np.zeros(5), np.array([0, 0, 0, 0, 0, np.inf])]
)
def test_a_command_that_is_no_command_is_refused(arm, bad):
    with pytest.raises(ValueError, match=r"positions is .* must hold 6 finite numbers"):
        arm.command(bad)


def test_velocities_let_the_arm_follow_a_moving_reference(arm):
    def largest_error(lead):
        arm.place_arm(HOME)
        error = 0.0
        for t in np.arange(0.0, 2.0, 0.01):
            swing = 0.3 * (1 - np.cos(np.pi * t))
            speed = 0.3 * np.pi * np.sin(np.pi * t)
            error = max(error, np.abs(arm.joint_positions - HOME - swing * PAN).max())
            arm.command(HOME + swing * PAN, speed * PAN * lead)
            arm.advance(2)
        return error

    assert largest_error(lead=1.0) < 0.015
    assert largest_error(lead=0.0) > 0.06


def test_a_cube_at_rest_in_the_tray_is_delivered(arm):
    put_red(arm, (0.02, -0.03), 0.021)
    arm.advance(100)
    assert arm.in_tray() == ("red",)
    assert arm.subtask_done(RED)
    assert arm.progress(RED) == 1.0
    assert not arm.task_done(CLEAR)
    assert 0.5 < arm.progress(CLEAR) < 1.0


@pytest.mark.parametrize(
    ("offset", "z"),
    [((TRAY_INNER, 0.0), 0.038), ((0.0, 0.0), 0.1), ((0.0, 0.13), 0.018), ((0.0, 0.0), -0.5)],
    ids=["on the wall", "in the air", "beside", "below"],
)
def test_a_cube_elsewhere_is_not_delivered(arm, offset, z):
    put_red(arm, offset, z)
    assert not arm.subtask_done(RED)


def test_a_cube_that_still_falls_is_not_delivered(arm):
    put_red(arm, (0.0, 0.0), 0.027)
    arm.advance(4)
    assert not arm.subtask_done(RED)
    arm.advance(100)
    assert arm.subtask_done(RED)


def test_a_cube_is_not_delivered_before_the_gripper_has_left_it(arm):
    put_red(arm, (0.0, 0.0), 0.021)
    cube = arm.objects()["red_cube"][:3]
    for gripper in (0.017, 0.03):  # touching, and open around it
        arm.place_arm(tool_at(cube, gripper))
        assert not arm.subtask_done(RED)
    arm.place_arm(tool_at(cube + ABOVE, 0.03))
    assert arm.subtask_done(RED)


def test_progress_rises_from_reach_to_grasp_to_tray(arm):
    cube = arm.objects()["red_cube"][:3]
    told = [arm.progress(RED)]
    arm.place_arm(tool_at(cube + ABOVE, 0.04))
    told.append(arm.progress(RED))
    arm.place_arm(tool_at(cube, 0.017))
    told.append(arm.progress(RED))
    put_red(arm, (0.0, 0.0), 0.021)
    arm.place_arm(HOME)
    told.append(arm.progress(RED))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_an_unknown_camera_is_refused(arm):
    with pytest.raises(ValueError, match=r"no camera 'top'; there are \['front', 'wrist'"):
        arm.render("top")


def project(point, width):
    """Pixel (column, row) of a world point in the front camera, by the pinhole model."""
    camera = ElementTree.fromstring(mjcf()).find(".//camera[@name='front']").attrib
    position, axes = (np.array(camera[k].split(), float) for k in ("pos", "xyaxes"))
    right, up = (axis / np.linalg.norm(axis) for axis in axes.reshape(2, 3))
    ray = point - position
    depth = ray @ -np.cross(right, up)
    focal = width / 2 / np.tan(np.radians(float(camera["fovy"])) / 2)
    return width / 2 + focal * (ray @ right) / depth, width / 2 - focal * (ray @ up) / depth


@pytest.mark.parametrize("seed", range(3))
def test_the_front_camera_shows_each_cube_in_its_colour_where_it_stands(arm, seed):
    arm.reset(seed, LayoutOptions(cubes=4))
    image = arm.render("front", 96, 96).astype(float)
    palette = np.array(list(COLOURS.values()))
    for colour in COLOURS:
        column, row = project(arm.objects()[f"{colour}_cube"][:3], 96)
        pixel = image[int(row), int(column)]
        likeness = palette @ pixel / np.linalg.norm(palette, axis=1)
        assert list(COLOURS)[np.argmax(likeness)] == colour


def test_the_wrist_camera_sees_the_cube_below_the_tool(arm):
    cube = arm.objects()["red_cube"][:3]
    arm.place_arm(tool_at(cube + ABOVE, 0.04))
    red, green, blue = np.moveaxis(arm.render("wrist").astype(int), -1, 0)
    assert ((red > 100) & (green < 60) & (blue < 60)).sum() > 50
