# SPDX-License-Identifier: Apache-2.0
"""The motion core: what the robot is told, tick by tick, whatever arrives.

It knows no ROS, no thread and no clock. Its owner calls it from one thread and hands in
two clocks as integer nanoseconds: ``ros_ns``, in which observations are stamped and targets
are due, and ``steady_ns``, monotonic, which measures ticks and the age of what was received.
Where a call takes both, they were read at the same moment: what one of them jumps against
the other is taken for a step of the clock.
"""

from collections import Counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_nodes.contract.schema import Contract
from vla_nodes.control.chunks import OfferedChunk, Reason, Refusal
from vla_nodes.control.command import Command, Health, State
from vla_nodes.control.intake import Intake, Plan
from vla_nodes.control.lease import GOAL_NONE, Lease
from vla_nodes.control.limits import Limiter
from vla_nodes.control.measured import Measured
from vla_nodes.control.parameters import Joints, MotionParameters
from vla_nodes.control.trajectory import Reference


class MotionCore:
    """Follows chunks under a lease, within limits, and stops for everything else.

    E-stop and trip latch until ``reset``. After them, after a lost lease and after
    ``deactivate``, only a new goal brings motion back. A chunk that ran out or a late
    measurement merely stops the robot until the next chunk.

    Args:
        contract: Joints, their limits, and the rate of targets.
        parameters: Everything else.
    """

    def __init__(self, contract: Contract, parameters: MotionParameters | None = None) -> None:
        self.parameters = p = parameters or MotionParameters()
        self.joints = joints = Joints.from_contract(contract)
        count = len(joints.names)
        self._limiter = Limiter(joints, p.dt_max, p.creep)
        self._lease = Lease(p.lease_timeout)
        self._measured = Measured(count, p.measured_timeout)
        self._intake = Intake(joints, p, self._measured)
        self._following: tuple[Plan, Reference] | None = None
        self._active = self._estop_pressed = self._estop_latched = False
        self._trip = self._fault = ""
        self._counters: Counter[str] = Counter()
        self._bad_chunks = 0
        self._limited_share = self._limited_above = 0.0
        # Grippers may be far from where they are sent: they switch, and they close on things.
        self._max_lag = np.where(joints.follows, joints.velocity * p.max_lag, np.inf)
        self._max_error = np.where(joints.follows, joints.velocity * p.max_tracking_error, np.inf)
        self._tick_ns: int | None = None
        self._tick_ros_ns = 0
        self._clock: tuple[int, int] | None = None
        self._ros_moved_ns: int | None = None
        self._command = Command(np.zeros(count), np.zeros(count), np.zeros(count, np.bool_))
        self._sample = np.zeros((2, count))
        self._scratch = np.zeros(count)

    @property
    def at_rest(self) -> bool:
        """Whether the command stands still."""
        return self._limiter.at_rest

    @property
    def goal(self) -> int:
        """Being served, or GOAL_NONE."""
        return self._lease.goal

    @property
    def command(self) -> Command:
        """What the last tick filled."""
        return self._command

    @property
    def state(self) -> State:
        """What the core is doing."""
        if self._estop_latched:
            return State.ESTOPPED
        if self._trip:
            return State.TRIPPED
        if self._following:
            return State.MOVING
        if not self.at_rest:
            return State.BRAKING
        return State.HOLD if self._active else State.INACTIVE

    def health(self) -> Health:
        """What there is to report."""
        fault = "e-stop" if self._estop_latched else self._trip or self._fault
        counters = dict(self._counters)
        return Health(self.state, fault, self._lease.goal, self._limited_share, counters)

    def halt(self) -> None:
        """Give up: stand still at once at the last command, for an owner that can tick no more."""
        publish = self._active or not self.at_rest
        self._limiter.seed(self._limiter.position.copy())
        self._fill_command(publish)

    def activate(self, ros_ns: int, steady_ns: int) -> str | None:
        """Begin to hold where the robot is. Returns why not, where that cannot be."""
        if self._active:
            return None
        if not self.at_rest:
            return "still braking"
        if not self._measured.is_fresh(ros_ns, steady_ns):
            return "no fresh measured positions"
        self._limiter.seed(self._measured.newest)
        self._active = True
        self._fault = ""
        self._tick_ns, self._tick_ros_ns = steady_ns, ros_ns
        return None

    def deactivate(self) -> None:
        """End the goal and brake. Ticks go on until ``at_rest``, the last one with zero speed."""
        self._active = False
        self._disarm("deactivated")

    def estop(self, pressed: bool) -> None:
        """Take the state of the e-stop. Pressed, it latches and the robot brakes."""
        self._estop_pressed = pressed
        if pressed:
            self._estop_latched = True
            self._disarm("e-stop")

    def trip(self, fault: str) -> None:
        """Stop for a fault that an operator has to look at."""
        if not self._trip:
            self._counters["trips"] += 1
            self._trip = fault
        self._disarm(self._trip)

    def reset(self) -> str | None:
        """Unlatch e-stop and trip, and hold where the robot has come to be meanwhile.

        Returns why not, where that cannot be.
        """
        if self._estop_pressed:
            return "the e-stop is pressed"
        if not self.at_rest:
            return "still braking"
        if self._active and (self._estop_latched or self._trip) and self._tick_ns is not None:
            if not self._measured.is_fresh(self._tick_ros_ns, self._tick_ns):
                return "no fresh measured positions"
            self._seed_again()
        self._estop_latched = False
        self._trip = ""
        self._bad_chunks = 0
        self._limited_share = self._limited_above = 0.0
        return None

    def lease(self, goal: int, steady_ns: int) -> None:
        """Take a Task message."""
        before = self._lease.goal
        if self._active and not self._estop_latched and not self._trip:
            self._lease.renew(goal, steady_ns)
        else:
            # What was asked while it could not be done is not begun later by itself.
            self._lease.end(goal)
        if before not in (GOAL_NONE, self._lease.goal):
            self._stop(f"goal {before} ended")

    def measure(self, positions: ArrayLike, stamp_ns: int, steady_ns: int) -> None:
        """Take measured positions (A,) in the contract's order, stamped in ROS time."""
        latest_ns = stamp_ns
        if self._clock is not None:
            ros_ns, then_ns = self._clock
            latest_ns = ros_ns + steady_ns - then_ns + int(self.parameters.max_future * 1e9)
        if problem := self._measured.add(positions, stamp_ns, latest_ns, steady_ns):
            self._counters[problem] += 1
            return
        np.subtract(self._measured.newest, self._limiter.position, out=self._scratch)
        np.abs(self._scratch, out=self._scratch)
        if self._active and (self._scratch > self._max_error).any():
            i = int((self._scratch / self._max_error).argmax())
            self.trip(
                f"{self.joints.names[i]} is {self._scratch[i]:.3f} away from its command; "
                f"at most {self._max_error[i]:.3f} is allowed"
            )

    def offer(self, offered: OfferedChunk, ros_ns: int, steady_ns: int) -> Refusal | None:
        """Follow a chunk from now on, or say why not."""
        self._follow_clock(ros_ns, steady_ns)
        position, held = self._limiter.position, self._limiter.position
        if self._following:
            plan, reference = self._following
            held = plan.targets[reference.index(ros_ns)]
        goal = self._lease.goal
        answer = self._intake.consider(offered, goal, position, held, ros_ns, steady_ns)
        if isinstance(answer, Refusal):
            self._refuse(answer)
            return answer
        command = np.stack([self._limiter.position, self._limiter.velocity])
        # The command is as of the last tick; the reference begins there.
        reference = Reference(
            answer.due_ns, answer.targets, self._tick_ros_ns, command, self.parameters.blend
        )
        self._following = (answer, reference)
        self._fault = ""
        self._bad_chunks = 0
        self._counters["accepted"] += 1
        return None

    def tick(self, ros_ns: int, steady_ns: int) -> Command:
        """Move the command to now. The result is valid until the next tick."""
        if self._tick_ns is None or steady_ns <= self._tick_ns:
            self._command.publish = False
            return self._command
        self._follow_clock(ros_ns, steady_ns)
        elapsed = (steady_ns - self._tick_ns) * 1e-9
        publish = self._active or not self.at_rest
        if elapsed > self.parameters.max_gap and not self._restart(ros_ns, steady_ns):
            return self._fill_command(publish=False)
        self._tick_ns, self._tick_ros_ns = steady_ns, ros_ns
        self._watch(ros_ns, steady_ns)
        dt = min(elapsed, self.parameters.dt_max)
        if elapsed > dt:
            # The robot was without a command for the rest, and slowed down.
            self._limiter.lose(elapsed - dt)
        self._command.limited[:] = False
        if self._following:
            plan, reference = self._following
            reference.sample(ros_ns, self._sample)
            self._limiter.track(self._sample, dt)
            self._watch_limits(plan.clamped[reference.index(ros_ns)], dt)
        else:
            self._limiter.brake(dt)
        return self._fill_command(publish)

    def _fill_command(self, publish: bool) -> Command:
        command = self._command
        command.positions[:] = self._limiter.position
        command.velocities[:] = self._limiter.velocity
        command.state = self.state
        command.publish = publish
        return command

    def _stop(self, fault: str) -> None:
        """Follow no chunk: the following ticks brake."""
        self._following = None
        self._fault = fault

    def _seed_again(self) -> None:
        """Be at rest where the robot is measured; grippers that switch keep their grip."""
        position = np.where(self.joints.follows, self._measured.newest, self._limiter.position)
        self._limiter.seed(position)

    def _disarm(self, fault: str) -> None:
        """Stop, and serve the goal no more."""
        self._lease.end(self._lease.goal)
        self._stop(fault)

    def _refuse(self, refusal: Refusal) -> None:
        """Count a refusal; several chunks in a row that make no sense trip."""
        self._counters[refusal.reason] += 1
        if refusal.reason in (Reason.MALFORMED, Reason.FAR):
            self._bad_chunks += 1
            if self._bad_chunks >= self.parameters.max_refusals:
                self.trip(f"{self._bad_chunks} bad chunks in a row, the last: {refusal.text}")

    def _restart(self, ros_ns: int, steady_ns: int) -> bool:
        """Begin anew after a long silence, through which the robot held the last command.

        Returns False while nobody knows where that left it.
        """
        if self._following:
            self._stop("no tick for too long")
        fresh = self._measured.is_fresh(ros_ns, steady_ns)
        if fresh:
            self._seed_again()
        else:
            self._limiter.seed(self._limiter.position.copy())
        self._counters["restarts"] += fresh
        return fresh or not self._active

    def _watch(self, ros_ns: int, steady_ns: int) -> None:
        """Stop where something that motion needs has run out."""
        if self._lease.expired(steady_ns):
            self._counters["leases lost"] += 1
            self._disarm(f"the lease of goal {self._lease.goal} ran out")
        if not self._following:
            return
        plan, reference = self._following
        if not self._measured.is_fresh(ros_ns, steady_ns):
            self._counters["measured positions late"] += 1
            self._stop("the joints were not measured for too long")
        elif ros_ns > reference.end_ns:
            self._counters["chunks run out"] += 1
            self._stop("the chunk ran out and no fresh one came")
        elif steady_ns - plan.received_ns > self.parameters.max_chunk_age * 1e9:
            self._counters["chunks run out"] += 1
            self._stop("the chunk is too old and no fresh one came")

    def _watch_limits(self, clamped: NDArray[np.bool_], dt: float) -> None:
        """Trip where the robot is kept from following for too long.

        Args:
            clamped: (A,) joints whose present target was far outside their limits.
            dt: Seconds.
        """
        p, lag, limited = self.parameters, self._scratch, self._command.limited
        np.clip(self._limiter.position, self.joints.lower, self.joints.upper, out=lag)
        np.subtract(self._sample[0], lag, out=lag)
        np.abs(lag, out=lag)
        np.greater(lag, self._max_lag, out=limited)
        np.logical_or(limited, clamped, out=limited)
        share = float(limited.any())
        self._limited_share += (share - self._limited_share) * min(1.0, dt / p.limited_time)
        above = self._limited_share > p.limited_share
        self._limited_above = self._limited_above + dt if above else 0.0
        if self._limited_above > p.limited_time:
            self.trip(f"{self._limited_share:.0%} of ticks were limited")

    def _follow_clock(self, ros_ns: int, steady_ns: int) -> None:
        """Follow ROS time where it goes, as it goes.

        A stepped system clock takes all stamps along, and motion goes on. Simulated time
        that goes back or stands still is another run of the simulator, or none.
        """
        before_ns, then_ns = self._clock or (ros_ns, steady_ns)
        self._clock = (ros_ns, steady_ns)
        if self.parameters.sim_time:
            if ros_ns < before_ns:
                self._counters["clock resets"] += 1
                self._measured.clear()
                self._intake.clear()
                self._disarm("simulated time went back")
            elif ros_ns > before_ns or self._ros_moved_ns is None:
                self._ros_moved_ns = steady_ns
            elif steady_ns - self._ros_moved_ns > self.parameters.max_standstill * 1e9:
                self._disarm("simulated time stands still")
            return
        step_ns = ros_ns - before_ns - (steady_ns - then_ns)
        if abs(step_ns) > self.parameters.max_future * 1e9:
            self._counters["clock steps"] += 1
            self._tick_ros_ns += step_ns
            self._measured.shift(step_ns)
            self._intake.shift(step_ns)
            if self._following:
                self._following[1].shift(step_ns)
