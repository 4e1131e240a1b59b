# SPDX-License-Identifier: Apache-2.0
"""What the core does about each fault, one behaviour a test."""

import numpy as np
import pytest
from motion_bench import (
    ACCELERATION,
    DT_MAX,
    HOME,
    LIMITS,
    LOWER,
    PERIOD_NS,
    UPPER,
    VELOCITY,
    Oracle,
    make_chunk,
    small_contract,
)

from vla_nodes.control import MotionCore, MotionParameters, Reason, State

SECOND = 1_000_000_000


def moved(position, by: float, joint: int = 0) -> np.ndarray:
    """The same position but for one joint."""
    position = np.array(position)
    position[joint] += by
    return position


class Bench:
    """A core with a robot that is where it was told to be, and an oracle that listens."""

    def __init__(self, start=HOME, **parameters) -> None:
        self.core = MotionCore(small_contract(), MotionParameters(**parameters))
        self.oracle = Oracle()
        self.steady_ns = 7 * SECOND
        self.clock_ns = 1_000 * SECOND
        self.robot = np.array(start)
        self.goal = 1
        self.measuring = self.leasing = True
        self.core.measure(self.robot, self.ros_ns, self.steady_ns)
        assert self.core.activate(self.ros_ns, self.steady_ns) is None

    @property
    def ros_ns(self) -> int:
        return self.steady_ns + self.clock_ns

    def tick(self, pause_ns: int = PERIOD_NS):
        self.steady_ns += pause_ns
        if self.measuring:
            self.core.measure(self.robot, self.ros_ns, self.steady_ns)
        if self.leasing:
            self.core.lease(self.goal, self.steady_ns)
        command = self.core.tick(self.ros_ns, self.steady_ns)
        if command.publish:
            self.oracle.see(self.steady_ns, command)
            self.robot = command.positions.copy()
        return command

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * SECOND / PERIOD_NS)):
            self.tick()

    def offer(self, targets=None, age: float = 0.0, rows: int = 20, **changes):
        targets = self.ahead(rows) if targets is None else targets
        stamp_ns = self.ros_ns - round(age * SECOND)
        chunk = make_chunk(targets, stamp_ns, **({"goal": self.goal} | changes))
        return self.core.offer(chunk, self.ros_ns, self.steady_ns)

    def ahead(self, rows: int = 20) -> np.ndarray:
        """A calm motion from where the robot is."""
        slope = np.array([0.6, 0.6, 0.0, 0.0]) * 0.05
        return self.robot + slope * np.arange(1, rows + 1)[:, None]

    def set_off(self) -> None:
        self.run(0.05)
        assert self.offer() is None
        self.run(0.2)
        assert self.core.state == State.MOVING
        assert not self.core.at_rest

    def assert_stops(self) -> None:
        """At rest within the braking time and a tick, and after that for good."""
        ticks = int(np.ceil((VELOCITY / ACCELERATION).max() * SECOND / PERIOD_NS)) + 1
        for _ in range(ticks):
            self.tick()
        assert self.core.at_rest
        held = self.robot.copy()
        self.run(0.3)
        np.testing.assert_array_equal(self.robot, held)

    def assert_only_a_new_goal_moves(self) -> None:
        self.tick()
        assert self.offer().reason == Reason.NO_LEASE
        self.goal += 1
        self.tick()
        assert self.offer() is None
        self.run(0.1)
        assert not self.core.at_rest


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    assert bench.oracle.violations == []


def test_it_starts_in_hold_where_the_robot_is(bench):
    command = bench.tick()
    assert command.state == State.HOLD
    np.testing.assert_array_equal(command.positions, HOME)
    assert not command.velocities.any()


def test_it_does_not_activate_without_a_measured_position():
    core = MotionCore(small_contract())
    assert "measured" in core.activate(SECOND, SECOND)
    core.measure(np.full(4, np.nan), SECOND, SECOND)
    assert "measured" in core.activate(SECOND, SECOND)
    assert not core.tick(2 * SECOND, 2 * SECOND).publish


def test_a_chunk_is_followed_by_the_clock_without_lag(bench):
    bench.run(0.05)
    targets = bench.ahead(40)
    stamp_ns = bench.ros_ns
    assert bench.offer(targets) is None
    bench.run(0.5)
    at = (bench.ros_ns - stamp_ns) / SECOND / 0.05 - 1
    expected = [np.interp(at, np.arange(40), column) for column in targets.T]
    np.testing.assert_allclose(bench.robot, expected, atol=1e-6)


def test_without_a_lease_nothing_moves(bench):
    bench.leasing = False
    bench.tick()
    assert bench.offer().reason == Reason.NO_LEASE


def test_a_lost_lease_brakes_and_the_same_goal_does_not_return(bench):
    bench.set_off()
    bench.leasing = False
    bench.run(0.45)
    bench.offer()
    assert bench.core.state == State.MOVING
    bench.run(0.1)
    assert bench.core.health().fault == "the lease of goal 1 ran out"
    bench.assert_stops()
    bench.leasing = True
    bench.assert_only_a_new_goal_moves()


def test_a_lease_that_comes_late_does_not_revive_the_goal(bench):
    bench.set_off()
    bench.steady_ns += 510_000_000
    bench.core.lease(bench.goal, bench.steady_ns)
    assert bench.offer().reason == Reason.NO_LEASE


def test_a_new_goal_drops_the_old_chunk(bench):
    bench.set_off()
    bench.goal = 2
    bench.tick()
    assert bench.core.state == State.BRAKING
    assert bench.offer(goal=1).reason == Reason.WRONG_GOAL
    bench.assert_stops()
    assert bench.offer() is None


def test_the_end_of_a_goal_stops(bench):
    bench.set_off()
    bench.goal = 0
    bench.assert_stops()
    bench.goal = 1
    bench.assert_only_a_new_goal_moves()


def test_an_older_goal_changes_nothing(bench):
    bench.goal = 5
    bench.set_off()
    bench.core.lease(3, bench.steady_ns)
    assert bench.core.health().goal == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"goal": 9}, Reason.WRONG_GOAL),
        ({"rejected": True}, Reason.REJECTED),
        ({"joints": ("a", "b", "c", "d")}, Reason.MALFORMED),
        ({"age": -0.06}, Reason.FUTURE),
        ({"age": 1.01}, Reason.TOO_OLD),
        ({"age": 0.5, "rows": 10}, Reason.PAST),
        ({"age": 0.25}, Reason.OUT_OF_ORDER),
        ({"age": 0.2}, Reason.DUPLICATE),
        ({"targets": np.tile(moved(HOME, 1.2), (9, 1))}, Reason.FAR),
    ],
)
def test_a_chunk_that_must_not_be_followed_is_refused_and_counted(bench, change, reason):
    bench.set_off()
    assert bench.offer(**change).reason == reason
    assert bench.core.health().counters[reason] == 1
    assert bench.core.state == State.MOVING


def test_a_stamp_slightly_in_the_future_is_accepted(bench):
    bench.tick()
    assert bench.offer(age=-0.04) is None


def test_of_a_partly_past_chunk_only_the_future_is_followed(bench):
    bench.run(0.3)
    targets = np.tile(HOME, (20, 1))
    targets[:5, 0] = 1.5
    assert bench.offer(targets, age=0.28) is None
    bench.run(0.3)
    np.testing.assert_allclose(bench.robot, HOME, atol=0.2)


def test_a_seam_between_two_chunks_keeps_velocity_continuous(bench):
    bench.set_off()
    velocities = [bench.tick().velocities.copy()]
    targets = bench.ahead() + np.array([0.05, -0.05, 0.001, 0.0])
    assert bench.offer(targets) is None
    velocities += [bench.tick().velocities.copy() for _ in range(20)]
    steps = np.abs(np.diff(velocities, axis=0))
    assert (steps <= ACCELERATION * 0.01 * (1 + 1e-9)).all()


def test_a_chunk_that_agrees_with_the_last_one_leaves_no_trace():
    with_seam, without = Bench(), Bench()
    wave = HOME + np.outer(np.sin(np.arange(1, 61) * 0.1), [0.3, 0.3, 0.01, 0.0])
    for bench in (with_seam, without):
        bench.tick()
        bench.offer(wave)
    # As late as the first chunk, so that both have the same neighbours where they are used.
    with_seam.run(0.5)
    without.run(0.5)
    with_seam.offer(wave[8:], age=0.1)
    for _ in range(80):
        np.testing.assert_allclose(with_seam.tick().positions, without.tick().positions, atol=1e-4)


def test_a_chunk_that_runs_out_stops_and_the_next_one_goes_on(bench):
    bench.run(0.05)
    bench.offer(rows=6)
    bench.run(0.31)
    assert bench.core.state == State.BRAKING
    assert "ran out" in bench.core.health().fault
    bench.assert_stops()
    assert bench.core.state == State.HOLD
    assert bench.offer() is None
    bench.run(0.1)
    assert bench.core.state == State.MOVING
    assert bench.core.health().fault == ""


def test_a_long_chunk_is_not_followed_beyond_its_age(bench):
    bench.run(0.05)
    bench.offer(np.tile(HOME, (100, 1)))
    bench.run(1.99)
    assert bench.core.state == State.MOVING
    bench.run(0.03)
    assert "too old" in bench.core.health().fault


@pytest.mark.parametrize("how", ["silent", "nan", "frozen stamp"])
def test_a_late_measurement_stops_until_it_is_back(bench, how):
    bench.set_off()
    bench.measuring = False
    frozen_ns = bench.ros_ns
    for _ in range(22):
        if how == "nan":
            bench.core.measure(np.full(4, np.nan), bench.ros_ns, bench.steady_ns)
        elif how == "frozen stamp":
            bench.core.measure(bench.robot, frozen_ns, bench.steady_ns)
        bench.tick()
    assert "not measured" in bench.core.health().fault
    assert bench.offer(age=-0.001).reason == Reason.NOT_MEASURED
    bench.assert_stops()
    bench.measuring = True
    bench.tick()
    assert bench.offer() is None


def test_a_measurement_from_the_future_is_not_believed(bench):
    bench.tick()
    bench.core.measure(HOME + 5, bench.ros_ns + SECOND, bench.steady_ns)
    assert bench.core.health().counters["measured positions from the future"] == 1
    assert bench.core.state == State.HOLD


def test_a_robot_far_from_its_command_trips(bench):
    bench.set_off()
    bench.measuring = False
    away = moved(bench.robot, -1.3)
    bench.core.measure(away, bench.ros_ns + 1, bench.steady_ns + 1)
    assert bench.core.state == State.TRIPPED
    assert bench.core.health().fault.startswith("lift is 1.3")


def test_a_gripper_closed_on_something_does_not_trip(bench):
    bench.set_off()
    bench.core.measure(moved(bench.robot, 1.0, joint=3), bench.ros_ns + 1, bench.steady_ns + 1)
    assert bench.core.state == State.MOVING


def test_a_gripper_under_way_keeps_its_end_while_targets_are_undecided(bench):
    bench.tick()
    closing = np.tile(moved(HOME, 1.0, joint=3), (20, 1))
    bench.offer(closing)
    bench.run(0.1)
    assert 0.0 < bench.robot[3] < 0.4
    bench.offer(np.tile(moved(HOME, 0.5, joint=3), (20, 1)))
    bench.run(0.5)
    assert bench.robot[3] == pytest.approx(1.0)


def test_the_estop_brakes_latches_and_needs_release_reset_and_a_new_goal(bench):
    bench.set_off()
    bench.core.estop(True)
    assert bench.core.reset() == "the e-stop is pressed"
    bench.core.estop(False)
    assert bench.core.reset() == "still braking"
    bench.assert_stops()
    assert bench.core.state == State.ESTOPPED
    assert bench.offer().reason == Reason.NO_LEASE
    assert bench.core.reset() is None
    bench.assert_only_a_new_goal_moves()


def test_after_a_reset_it_holds_where_the_robot_has_come_to_be(bench):
    bench.set_off()
    bench.core.estop(True)
    bench.core.estop(False)
    bench.assert_stops()
    # While its motors were off, the arm sank; the hand still holds what it held.
    sunk = bench.robot - np.array([0.3, 0.2, 0.001, 0.05])
    grip = bench.core.command.positions[3]
    bench.robot = sunk
    bench.tick()
    assert bench.core.reset() is None
    bench.oracle.forget()
    bench.measuring = False
    command = bench.tick()
    np.testing.assert_allclose(command.positions, [*sunk[:3], grip])
    assert not command.velocities.any()


def test_a_reset_needs_to_know_where_the_robot_is(bench):
    bench.set_off()
    bench.core.estop(True)
    bench.core.estop(False)
    bench.measuring = False
    bench.run(0.5)
    assert bench.core.reset() == "no fresh measured positions"


@pytest.mark.parametrize("active", [True, False])
def test_an_owner_that_can_tick_no_more_sends_a_standstill_only_where_it_commands(bench, active):
    bench.set_off()
    position = bench.tick().positions.copy()
    if not active:
        bench.core.deactivate()
        bench.assert_stops()
        position = bench.core.command.positions.copy()
    bench.core.halt()
    assert bench.core.command.publish == active
    assert not bench.core.command.velocities.any()
    np.testing.assert_array_equal(bench.core.command.positions, position)


@pytest.mark.parametrize(
    "stop",
    [lambda core: core.estop(True), lambda core: core.trip("a fault"), MotionCore.deactivate],
    ids=["estop", "trip", "deactivate"],
)
def test_a_stop_needs_no_message_to_follow(bench, stop):
    bench.set_off()
    bench.leasing = bench.measuring = False
    stop(bench.core)
    assert bench.core.health().goal == 0
    bench.assert_stops()


def test_a_goal_sent_while_the_estop_is_latched_is_never_begun(bench):
    bench.core.estop(True)
    bench.goal = 7
    bench.tick()
    bench.core.estop(False)
    assert bench.core.reset() is None
    bench.assert_only_a_new_goal_moves()


def test_the_estop_is_idempotent_at_any_rate(bench):
    bench.set_off()
    for _ in range(100):
        bench.core.estop(True)
        bench.core.estop(False)
        bench.core.estop(True)
        bench.tick()
    assert bench.core.at_rest
    assert bench.core.state == State.ESTOPPED


def test_the_estop_holds_through_activation():
    core = MotionCore(small_contract())
    core.estop(True)
    core.measure(HOME, SECOND, SECOND)
    assert core.activate(SECOND, SECOND) is None
    assert core.state == State.ESTOPPED
    core.lease(1, SECOND)
    assert core.health().goal == 0


@pytest.mark.parametrize("kind", ["malformed", "far"])
def test_several_bad_chunks_in_a_row_trip(bench, kind):
    bench.set_off()
    bad = np.full((5, 4), np.nan) if kind == "malformed" else np.tile(moved(HOME, 1.4), (5, 1))
    for _ in range(4):
        bench.offer(bad)
        assert bench.core.state == State.MOVING
    assert bench.offer() is None
    for k in range(5):
        assert bench.core.state == State.MOVING, k
        bench.tick()
        bench.offer(bad)
    assert bench.core.state == State.TRIPPED
    bench.assert_stops()
    assert bench.core.reset() is None
    bench.assert_only_a_new_goal_moves()


def test_targets_that_stay_far_outside_the_limits_end_in_a_trip():
    bench = Bench(start=[1.3, 0.5, 0.02, 0.0])
    bench.tick()
    for _ in range(60):
        bench.offer(np.tile([3.0, 0.5, 0.02, 0.0], (20, 1)))
        bench.run(0.1)
    assert "of ticks were limited" in bench.core.health().fault
    assert bench.core.state == State.TRIPPED
    assert bench.robot[0] == UPPER[0]
    assert bench.oracle.violations == []


def test_the_share_of_limited_ticks_is_reported(bench):
    bench.run(0.05)
    bench.offer(np.tile(moved(HOME, 0.5), (30, 1)))
    limited = [bench.tick().limited.copy() for _ in range(30)]
    assert np.any(limited, axis=0).tolist() == [True, False, False, False]
    assert 0 < bench.core.health().limited_share < 0.5


def test_deactivation_brakes_first_and_sends_the_standstill_last(bench):
    bench.set_off()
    bench.core.deactivate()
    sent = []
    while (command := bench.tick()).publish:
        sent.append(command.velocities.copy())
    assert command.state == State.INACTIVE
    assert sent[0].any()
    assert not sent[-1].any()


def test_a_goal_from_before_activation_is_not_taken_up(bench):
    bench.set_off()
    bench.core.deactivate()
    bench.run(0.5)
    assert bench.core.activate(bench.ros_ns, bench.steady_ns) is None
    bench.oracle.forget()
    bench.assert_only_a_new_goal_moves()


@pytest.mark.parametrize("pause_ns", [0, -1, -SECOND])
def test_no_time_no_motion(bench, pause_ns):
    bench.set_off()
    before = bench.robot.copy()
    command = bench.core.tick(bench.ros_ns + pause_ns, bench.steady_ns + pause_ns)
    assert not command.publish
    np.testing.assert_array_equal(command.positions, before)


@pytest.mark.parametrize("late", [1, 3, 20])
def test_a_late_tick_is_not_caught_up(bench, late):
    bench.set_off()
    before = bench.robot.copy()
    bench.tick((1 + late) * PERIOD_NS)
    assert (np.abs(bench.robot - before) <= VELOCITY * DT_MAX).all()
    bench.run(0.3)


def test_after_a_late_tick_the_robot_sets_off_from_rest(bench):
    bench.set_off()
    command = bench.tick(21 * PERIOD_NS)
    assert (np.abs(command.velocities) <= ACCELERATION * DT_MAX).all()


def test_after_a_long_silence_it_begins_at_rest_where_the_robot_is(bench):
    bench.set_off()
    bench.robot = bench.robot - 0.001
    stopped = bench.robot.copy()
    grip = bench.core.command.positions[3]
    command = bench.tick(2 * SECOND)
    assert not command.velocities.any()
    np.testing.assert_array_equal(command.positions[:3], stopped[:3])
    # A gripper closes on things and is never where it is sent: it keeps its grip.
    assert command.positions[3] == grip
    bench.assert_stops()


def test_after_a_long_silence_nothing_is_sent_before_the_robot_is_measured(bench):
    bench.set_off()
    bench.measuring = False
    assert not bench.tick(2 * SECOND).publish
    assert not bench.tick().publish
    bench.measuring = True
    assert bench.tick().publish


def test_a_long_silence_while_braking_to_a_deactivated_state_ends_in_a_standstill(bench):
    bench.set_off()
    bench.core.deactivate()
    bench.measuring = False
    command = bench.tick(2 * SECOND)
    assert command.publish
    assert not command.velocities.any()
    assert command.state == State.INACTIVE


@pytest.mark.parametrize("step", [-5, 5])
def test_a_step_of_the_system_clock_neither_stops_nor_jumps(bench, step):
    bench.set_off()
    speed = bench.tick().velocities.copy()
    bench.clock_ns += step * SECOND
    for _ in range(30):
        np.testing.assert_allclose(bench.tick().velocities, speed, atol=1e-4)
    assert bench.offer() is None


def test_a_chunk_that_comes_before_the_tick_after_a_clock_step_begins_at_the_command(bench):
    bench.set_off()
    speed = bench.tick().velocities.copy()
    bench.clock_ns += 5 * SECOND
    bench.steady_ns += PERIOD_NS // 2
    # A row behind, 0.03 rad: the blend makes up for it within 0.1 s, at 0.45 rad/s on top.
    assert bench.offer(bench.ahead(), age=0.05) is None
    speeds = [bench.tick(PERIOD_NS // 2).velocities.copy() for _ in range(20)]
    assert np.abs(np.array(speeds) - speed).max() < 0.6


@pytest.mark.parametrize("fault", ["went back", "stands still"])
def test_simulated_time_that_is_reset_or_paused_disarms(fault):
    bench = Bench(sim_time=True)
    bench.set_off()
    if fault == "went back":
        bench.clock_ns -= 100 * SECOND
        bench.tick()
    paused_ns = int(bench.core.parameters.max_standstill * SECOND) + 2 * PERIOD_NS
    for _ in range(paused_ns // PERIOD_NS if fault == "stands still" else 0):
        bench.clock_ns -= PERIOD_NS
        bench.tick()
    assert fault in bench.core.health().fault
    bench.assert_stops()
    bench.assert_only_a_new_goal_moves()
    assert bench.oracle.violations == []


def test_a_robot_found_outside_its_limits_creeps_in():
    bench = Bench(start=[UPPER[0] + 0.03, LOWER[1] - 0.01, 0.02, 0.0])
    bench.run(0.3)
    np.testing.assert_array_equal(bench.robot, [UPPER[0] + 0.03, LOWER[1] - 0.01, 0.02, 0.0])
    targets = np.tile([UPPER[0] - 0.01, LOWER[1] + 0.01, 0.02, 0.0], (30, 1))
    for _ in range(10):
        assert bench.offer(targets) is None
        bench.run(0.1)
    np.testing.assert_allclose(bench.robot, targets[0], atol=1e-6)
    assert bench.oracle.violations == []


def test_a_relative_chunk_starts_from_what_was_measured_at_its_observation(bench):
    bench.set_off()
    there = bench.robot.copy()
    bench.tick()
    stamp_ns = bench.ros_ns
    bench.run(0.1)
    offsets = np.tile([0.1, 0.0, 0.0, 0.0], (20, 1))
    assert bench.offer(offsets, age=(bench.ros_ns - stamp_ns) / SECOND, relative=True) is None
    bench.run(0.6)
    np.testing.assert_allclose(bench.robot[:3], there[:3] + offsets[0, :3], atol=1e-6)


def test_a_relative_chunk_needs_that_measurement(bench):
    bench.run(0.05)
    assert bench.offer(np.zeros((20, 4)), age=0.3, relative=True).reason == Reason.NOT_MEASURED


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate", 0.0), ("blend", -0.1), ("lease_timeout", np.nan), ("creep", 1.5), ("max_gap", 0.02)],
)
def test_a_senseless_parameter_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        MotionParameters(**{name: value})


def test_limits_are_those_of_the_contract():
    joints = MotionCore(small_contract()).joints
    assert joints.lower.tolist() == [limit.lower for limit in LIMITS]
    assert joints.follows.tolist() == [True, True, True, False]
