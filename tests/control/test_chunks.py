# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_bench import HOME, JOINTS, LOWER, UPPER, make_chunk, small_contract

from vla_nodes.control import Reason, Refusal
from vla_nodes.control.chunks import TimedChunk, check_chunk, resolve_targets
from vla_nodes.control.parameters import Joints

STAMP = 1_000_000_000_000
ROBOT = Joints.from_contract(small_contract())


def check(targets=None, **changes) -> TimedChunk | Refusal:
    targets = np.tile(HOME, (6, 1)) if targets is None else targets
    return check_chunk(make_chunk(targets, STAMP, **changes), ROBOT, max_horizon=10.0)


@given(st.permutations(range(4)))
def test_joints_are_mapped_by_name_whatever_their_order(order):
    targets = np.arange(12.0).reshape(3, 4)
    chunk = check(targets[:, order], joints=[JOINTS[i] for i in order])
    assert isinstance(chunk, TimedChunk)
    np.testing.assert_array_equal(chunk.targets, targets)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joints": JOINTS[:3]}, "3 joints; expected 4"),
        ({"joints": (*JOINTS, "wrist")}, "5 joints; expected 4"),
        ({"joints": ("lift", "lift", "slide", "jaw")}, "['elbow'] are missing"),
        ({"joints": ("lift", "elbow", "slide", "wrist")}, "['jaw'] are missing"),
        ({"positions": np.zeros((6, 3))}, "shape (6, 3); expected (6, 4)"),
        ({"positions": np.zeros((5, 4))}, "shape (5, 4); expected (6, 4)"),
        ({"positions": np.zeros(4)}, "shape (4,)"),
        ({"positions": [[0.0, 1.0], [0.0]]}, "positions are no array"),
        ({"positions": [["0.1"] * 4] * 6}, "dtype"),
        ({"positions": np.full((6, 4), 1j)}, "dtype complex128"),
        ({"due_ns": []}, "due times"),
        ({"due_ns": [STAMP + 50_000_000]}, "two or more"),
        ({"due_ns": [0.05, 0.1]}, "dtype float64"),
        (
            {"due_ns": STAMP + np.array([1, 2, 3, 3, 4, 5]) * 50_000_000},
            "target 3 is due 0.000000 s",
        ),
        ({"due_ns": STAMP + np.array([1, 2, 4, 3, 5, 6]) * 50_000_000}, "target 2 is due"),
        ({"due_ns": STAMP + np.arange(1, 7) * 200_000_000}, "expected 0.050000"),
        ({"due_ns": STAMP + np.arange(6) * 50_000_000}, "before the observation"),
        ({"due_ns": STAMP + 10**10 + np.arange(6) * 50_000_000}, "after the observation"),
        ({"due_ns": [2**63 - 1, -(2**63)], "positions": np.zeros((2, 4))}, "target 1 is due"),
        ({"due_ns": np.array([2**63 - 1, 2**63], np.uint64)}, "after the observation"),
        ({"due_ns": [2**64, 2**65]}, "due times"),
    ],
)
def test_a_malformed_chunk_is_refused_and_says_why(changes, words):
    refusal = check(**changes)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.MALFORMED
    assert words in refusal.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_target_that_is_no_number_is_refused_and_named(value):
    targets = np.tile(HOME, (6, 1))
    targets[4, 1] = value
    refusal = check(targets)
    assert isinstance(refusal, Refusal)
    assert refusal.text.startswith(f"target 4 of elbow is {value}")


def test_targets_outside_the_limits_are_clamped_and_measured():
    targets = np.tile(HOME, (3, 1))
    targets[1, 0], targets[2, 1] = UPPER[0] + 0.3, LOWER[1] - 0.2
    within, outside = resolve_targets(check(targets), ROBOT, None, HOME)
    assert within[1, 0] == UPPER[0]
    assert within[2, 1] == LOWER[1]
    assert np.count_nonzero(outside) == 2
    np.testing.assert_allclose([outside[1, 0], outside[2, 1]], [0.3, 0.2])


def test_offsets_are_added_to_what_was_measured_except_for_grippers():
    measured = np.array([0.4, 0.6, 0.01, 0.7])
    chunk = check(np.tile([0.1, -0.1, 0.001, 0.2], (2, 1)), relative=True)
    within, _ = resolve_targets(chunk, ROBOT, measured, HOME)
    np.testing.assert_allclose(within, np.tile([0.5, 0.5, 0.011, 0.0], (2, 1)))
    with pytest.raises(ValueError, match="measured positions"):
        resolve_targets(chunk, ROBOT, None, HOME)


@settings(max_examples=60)
@given(st.lists(st.floats(-1, 2), min_size=2, max_size=20), st.floats(0, 1))
def test_grippers_switch_with_hysteresis(jaw, held):
    targets = np.tile(HOME, (len(jaw), 1))
    targets[:, 3] = jaw
    within, _ = resolve_targets(check(targets), ROBOT, None, np.array([0, 0, 0, held]))
    state = 1.0 if held > 0.5 else 0.0
    for target, found in zip(jaw, within[:, 3], strict=True):
        state = 1.0 if target > 0.6 else 0.0 if target < 0.4 else state
        assert found == state
