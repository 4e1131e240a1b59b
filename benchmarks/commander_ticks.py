# SPDX-License-Identifier: Apache-2.0
"""A million random ticks of the motion core under random chunks, clocks and faults.

    python benchmarks/commander_ticks.py [--ticks 1000000] [--seed 0]

Prints how often the commands broke a limit, as found by an oracle that sees nothing but
the commands, and what a tick costs.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "control"))

from motion_bench import (
    HOME,
    JOINTS,
    LOWER,
    PERIOD_NS,
    UPPER,
    VELOCITY,
    Oracle,
    make_chunk,
    small_contract,
)

from vla_nodes.control import MotionCore, State


class Storm:
    """A robot, a policy and a supervisor, all of which misbehave now and then."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.core = MotionCore(small_contract())
        self.oracle = Oracle()
        self.now_ns = 1_000_000_000
        self.clock_ns = 5_000_000_000_000
        self.goal = 0
        self.robot = HOME.copy()
        self.costs: list[int] = []
        self.states = np.zeros(len(State), dtype=int)

    def step(self) -> None:
        """One tick and what comes before it."""
        draw = self.rng.random()
        if draw < 0.001:
            self.misbehave()
        if draw < 0.05 and self.core.state in (State.ESTOPPED, State.TRIPPED, State.INACTIVE):
            self.recover()
        if draw > 0.9:
            self.offer()
        if self.rng.random() < 0.97:
            noise = self.rng.normal(0.0, 0.002, len(JOINTS))
            bad = self.rng.random() < 0.005
            stamp_ns = self.now_ns + self.clock_ns - int(self.rng.integers(0, 5_000_000))
            self.core.measure(np.nan if bad else self.robot + noise, stamp_ns, self.now_ns)
        if self.rng.random() < 0.3:
            self.core.lease(self.goal, self.now_ns)
            if self.rng.random() < 0.02 and self.core.health().goal == 0:
                self.goal += 1
        self.tick(self.pause_ns())

    def pause_ns(self) -> int:
        """Time to the next tick: mostly jittered, at times late, absurd or negative."""
        draw = self.rng.random()
        if draw < 0.9:
            return int(PERIOD_NS * self.rng.uniform(0.7, 1.3))
        if draw < 0.98:
            return int(PERIOD_NS * self.rng.uniform(0.0, 6.0))
        if draw < 0.998:
            return int(self.rng.choice([0, 1, -1, -PERIOD_NS, 1000, 20 * PERIOD_NS]))
        return int(1e9 * self.rng.uniform(0.4, 2.0))

    def tick(self, pause_ns: int) -> None:
        """Tick, and show the command to the oracle and to the robot."""
        steady_ns = self.now_ns + pause_ns
        self.now_ns = max(self.now_ns, steady_ns)
        begin = time.perf_counter_ns()
        command = self.core.tick(steady_ns + self.clock_ns, steady_ns)
        if command.state == State.MOVING:
            self.costs.append(time.perf_counter_ns() - begin)
        self.states[command.state] += 1
        if command.publish:
            self.oracle.see(steady_ns, command)
            self.robot = command.positions.copy()

    def offer(self) -> None:
        """Mostly a random walk from where the robot is, due about now; else anything."""
        rows = int(self.rng.integers(2, 40))
        pace = self.rng.choice([0.1, 0.5, 1.0, 3.0])
        steps = self.rng.normal(0.0, 1.0, (rows, len(JOINTS))) * VELOCITY * 0.05 * pace
        targets = self.robot + np.cumsum(steps, axis=0)
        ros_ns = self.now_ns + self.clock_ns
        age_ns = int(1e9 * self.rng.choice([0.0, 0.05, 0.2, 0.6, 1.5, -0.04, -0.5]))
        chunk = make_chunk(targets, ros_ns - age_ns, self.goal, relative=self.rng.random() < 0.1)
        if self.rng.random() < 0.05:
            targets[self.rng.integers(rows)] = self.rng.choice([np.nan, np.inf, 1e300, 50.0])
        self.core.offer(chunk, ros_ns, self.now_ns)

    def misbehave(self) -> None:
        """Something that stops the robot, or takes the clock from under it."""
        event = self.rng.integers(4)
        if event == 0:
            self.core.estop(True)
        elif event == 1:
            self.core.deactivate()
        elif event == 2:
            self.clock_ns += int(1e9 * self.rng.uniform(-5.0, 5.0))
        else:
            self.goal += 1

    def recover(self) -> None:
        """What an operator does: release, reset, activate, new goal."""
        self.core.estop(False)
        stopped = self.core.state in (State.ESTOPPED, State.TRIPPED)
        if self.core.reset() is None and stopped:
            self.oracle.forget()  # It holds where the robot has come to be meanwhile.
        if self.core.state == State.INACTIVE:
            if self.rng.random() < 0.3:
                self.robot = self.rng.uniform(LOWER - 0.1, UPPER + 0.1)
            self.now_ns += PERIOD_NS
            ros_ns = self.now_ns + self.clock_ns
            self.core.measure(self.robot, ros_ns, self.now_ns)
            if self.core.activate(ros_ns, self.now_ns) is None:
                self.oracle.forget()
        self.goal += 1


def storm(ticks: int, seed: int) -> Storm:
    """Run so many random ticks."""
    run = Storm(seed)
    for _ in range(ticks):
        run.step()
    return run


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = storm(options.ticks, options.seed)
    low, high, worst = np.percentile(np.array(run.costs) / 1000, [50, 99, 100])
    print(f"ticks {options.ticks}, seed {options.seed}")
    print(f"limit violations {len(run.oracle.violations)}")
    print(f"tick while moving p50 {low:.1f} us, p99 {high:.1f} us, max {worst:.1f} us")
    print("states " + ", ".join(f"{state.name.lower()} {run.states[state]}" for state in State))
    print("counters " + ", ".join(f"{k} {n}" for k, n in run.core.health().counters.items()))
    for violation in run.oracle.violations[:10]:
        print(violation)


if __name__ == "__main__":
    main()
