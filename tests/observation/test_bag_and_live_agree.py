# SPDX-License-Identifier: Apache-2.0
"""The same messages, taken in all at once or as they come, give the same numbers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_samples import EPOCH, MS, arm, camera, contract, flat_image, joints

from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.observation import Observation

ROBOT = contract(
    (camera(), camera("wrist", crop=(1, 2, 4, 3))),
    (arm(units="deg"), arm("base", ("x",), fields=("position", "velocity"))),
)
LEADER = arm("leader", ("b", "a"))
PERIODS = {"front": 50, "wrist": 33, "arm": 10, "base": 21, "leader": 15}  # ms


def recorded(seed, drop):
    """(receive stamp, stamp, stream, message) of 0.6 s in order of receipt."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, period in PERIODS.items():
        for ms in range(0, 600, period):
            stamp = EPOCH + ms * MS + int(rng.integers(-3 * MS, 3 * MS))
            if rng.random() < drop:
                continue
            if name in ("front", "wrist"):
                message = flat_image(int(rng.integers(256)))
            elif name == "base":
                message = joints(rng.normal(size=1), ["x"], velocity=rng.normal(size=1))
            else:
                message = joints(rng.normal(size=3), rng.permutation(["a", "b", "c"]).tolist())
            rows.append((stamp + 4 * MS, stamp, name, message))
    return sorted(rows, key=lambda row: row[:3])


def add(robot, row):
    receive, stamp, name, message = row
    take = robot.add_image if name in ("front", "wrist") else robot.add_state
    assert take(name, message, stamp, receive) is None


def assert_equal(live, bag, now):
    assert live.stamp == bag.stamp
    assert list(live.images) == list(bag.images) == ["front", "wrist"]
    for name in live.images:
        np.testing.assert_array_equal(live.images[name], bag.images[name])
    np.testing.assert_array_equal(live.state, bag.state)
    np.testing.assert_array_equal(live.extras["leader"], bag.extras["leader"])
    assert live.skews == bag.skews
    waited = (now - live.stamp) * 1e-9
    for name, age in live.ages.items():
        np.testing.assert_allclose(age, bag.ages[name] + waited, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.3]))
def test_every_number_of_a_live_run_is_that_of_its_bag(seed, drop):
    rows = recorded(seed, drop)
    bag, live = (ObservationAssembler(ROBOT, (LEADER,)) for _ in range(2))
    for row in rows:
        add(bag, row)
    stamps = []
    for row in rows:
        add(live, row)
        made = live.latest(now_ns=row[0])
        if isinstance(made, Observation):
            assert_equal(made, bag.observe(made.stamp), now=row[0])
            stamps.append(made.stamp)
    assert stamps == sorted(stamps)
    if not drop:
        # Every frame but those at the ends, which lack a neighbour, makes an observation.
        frames = [stamp for _, stamp, name, _ in rows if name == "front"]
        assert set(frames[2:-1]) <= set(stamps)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_state_on_a_grid_is_what_numpy_interpolates(seed):
    rows = recorded(seed, drop=0.0)
    robot = ObservationAssembler(ROBOT, (LEADER,))
    for row in rows:
        add(robot, row)
    samples = {name: [r for r in rows if r[2] == name] for name in PERIODS}

    def value(name, joint, field, stamp):
        times = [(r[1] - EPOCH) / 1e9 for r in samples[name]]
        values = [getattr(r[3], field)[r[3].name.index(joint)] for r in samples[name]]
        return np.interp((stamp - EPOCH) / 1e9, times, values)

    for frame in range(60, 500, 17):
        stamp = EPOCH + frame * MS
        made = robot.observe(stamp)
        assert isinstance(made, Observation)
        expected = [
            np.deg2rad(value("arm", "a", "position", stamp)),
            np.deg2rad(value("arm", "b", "position", stamp)),
            value("base", "x", "position", stamp),
            value("base", "x", "velocity", stamp),
        ]
        np.testing.assert_allclose(made.state, expected, atol=1e-9)
        leader = [value("leader", joint, "position", stamp) for joint in ("b", "a")]
        np.testing.assert_allclose(made.extras["leader"], leader, atol=1e-9)
