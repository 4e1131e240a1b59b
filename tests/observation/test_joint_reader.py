# SPDX-License-Identifier: Apache-2.0
import array
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_samples import arm, joints

from vla_nodes.observation.errors import JointError
from vla_nodes.observation.joints import JointReader

NAMES = ("pan", "lift", "elbow", "roll")


@settings(deadline=None)
@given(
    st.permutations([*NAMES, "wheel", "head"]),
    st.lists(st.floats(-4, 4), min_size=6, max_size=6),
)
def test_any_order_of_joints_reads_alike_and_others_are_ignored(order, values):
    reader = JointReader(arm(joints=NAMES, fields=("velocity", "position")))
    by_name = dict(zip([*NAMES, "wheel", "head"], values, strict=True))
    message = joints(
        [by_name[name] for name in order], order, velocity=[-by_name[name] for name in order]
    )
    expected = [-by_name[name] for name in NAMES] + [by_name[name] for name in NAMES]
    np.testing.assert_array_equal(reader.read(message), expected)


def test_the_vector_is_ordered_like_its_names():
    source = arm(joints=("b", "a"), fields=("position", "effort"), prefix="left_")
    vector = JointReader(source).read(joints([1, 2], effort=[3, 4]))
    values = dict(zip(source.vector_names, vector, strict=True))
    assert values == {
        "left_b.position": 2.0,
        "left_a.position": 1.0,
        "left_b.effort": 4.0,
        "left_a.effort": 3.0,
    }


def test_an_order_that_changes_on_the_way_is_followed():
    reader = JointReader(arm())
    assert list(reader.read(joints([1, 2], ["a", "b"]))) == [1, 2]
    assert list(reader.read(joints([1, 2], ["b", "a"]))) == [2, 1]
    names = ["a", "b"]
    message = joints([1, 2], names)
    message.name = names
    assert list(reader.read(message)) == [1, 2]
    names.reverse()
    assert list(reader.read(message)) == [2, 1]


def test_degrees_become_radians_but_efforts_stay():
    source = arm(joints=("a",), fields=("position", "velocity", "effort"), units="deg")
    vector = JointReader(source).read(joints([180], ["a"], velocity=[90], effort=[90]))
    np.testing.assert_allclose(vector, [math.pi, math.pi / 2, 90], rtol=1e-15)


def test_the_message_is_left_as_it_was():
    message = joints([180, 90])
    JointReader(arm(units="deg")).read(message)
    assert list(message.position) == [180, 90]


def test_arrays_of_rclpy_are_read():
    message = joints([0, 0])
    message.position = array.array("d", [1.5, 2.5])
    assert list(JointReader(arm()).read(message)) == [1.5, 2.5]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (joints([1, 2], ["a", "c"]), "joint 'b' is missing, found a, c"),
        (joints([], []), "joint 'a' is missing, found no names"),
        (joints([1, 2, 3], ["a", "b", "a"]), "joint 'a' is in the message twice"),
        (joints([1, 2, 3], ["a", "b", "b"]), "joint 'b' is in the message twice"),
        (joints([1]), "position has 1 values for 2 joints"),
        (joints([]), "position has 0 values for 2 joints"),
        (joints([1, math.nan]), "position of joint 'b' is nan"),
        (joints([-math.inf, 1]), "position of joint 'a' is -inf"),
    ],
)
def test_a_malformed_message_is_refused_by_name(message, complaint):
    with pytest.raises(JointError, match=complaint):
        JointReader(arm()).read(message)


def test_a_joint_nobody_asked_for_may_be_nan():
    assert list(JointReader(arm()).read(joints([1, math.nan, 2], ["a", "x", "b"]))) == [1, 2]


def test_a_refused_message_does_not_spoil_the_next():
    reader = JointReader(arm())
    reader.read(joints([1, 2], ["b", "a"]))
    with pytest.raises(JointError):
        reader.read(joints([1, 2], ["a", "c"]))
    assert list(reader.read(joints([1, 2], ["b", "a"]))) == [2, 1]
