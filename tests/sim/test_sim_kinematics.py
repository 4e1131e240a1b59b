# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.kinematics import DOWN, differential, forward, inverse, jacobian
from vla_nodes.sim.layout import AREA
from vla_nodes.sim.scene import LOWER, UPPER

joints = st.tuples(*(st.floats(lo, hi) for lo, hi in zip(LOWER[:5], UPPER[:5], strict=True))).map(
    np.array
)


@pytest.fixture(scope="module")
def arm():
    return TabletopArm()


@settings(deadline=None)
@given(joints)
def test_forward_kinematics_agree_with_the_simulated_tool(arm, joints):
    arm.place_arm(np.append(joints, 0.0))
    np.testing.assert_allclose(forward(joints)[:3], arm.tool_position, atol=1e-9)


@given(joints)
def test_the_jacobian_is_the_derivative_of_forward_kinematics(joints):
    h = 1e-6
    columns = [(forward(joints + h * e) - forward(joints - h * e)) / (2 * h) for e in np.eye(5)]
    np.testing.assert_allclose(jacobian(joints), np.transpose(columns), atol=1e-8)


@given(
    st.floats(AREA[0, 0], AREA[1, 0]),
    st.floats(-0.3, 0.21),
    st.floats(0.015, 0.12),
    st.floats(-1.0, 1.0),
)
def test_inverse_kinematics_reach_all_of_the_workspace_within_limits(x, y, z, yaw):
    pose = np.array([x, y, z, DOWN, yaw])
    found = inverse(pose, HOME)
    np.testing.assert_allclose(forward(found), pose, atol=1e-4)
    assert (found >= LOWER[:5]).all()
    assert (found <= UPPER[:5]).all()


def test_a_pose_out_of_reach_is_refused():
    with pytest.raises(ValueError, match=r"0\.9.*out of reach"):
        inverse(np.array([0.9, 0.0, 0.1, DOWN, 0.0]), HOME)


@given(joints, st.tuples(*[st.floats(-0.1, 0.1)] * 5).map(np.array))
def test_a_differential_step_never_leaves_the_limits(joints, change):
    moved = joints + differential(joints, change)
    assert (moved >= LOWER[:5] - 1e-12).all()
    assert (moved <= UPPER[:5] + 1e-12).all()
