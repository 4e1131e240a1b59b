# SPDX-License-Identifier: Apache-2.0
"""The course of one episode: the expert drives the arm as a policy does on the running robot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vla_nodes.sim.arm import TabletopArm
from vla_nodes.sim.expert import LEVEL, ScriptedExpert
from vla_nodes.sim.rollout import TICK, Pilot, Timing
from vla_nodes.sim.scene import TIMESTEP, VELOCITY
from vla_training.data.demonstrations.episode_plan import EpisodePlan
from vla_training.data.demonstrations.faults import Fault, make_fault
from vla_training.data.demonstrations.noise import Bursts, NoiseSettings

LINGER = 2.0  # s that a success goes on for: what is done must be seen from rest, too
CAREFUL = 0.25  # of the noise, where the tool is at the table


@dataclass(frozen=True)
class Step:
    """One frame.

    Attributes:
        pictures: (H, W, 3) uint8 RGB by camera.
        state: Measured joint positions (6,).
        action: What the expert commands for the frame after (6,), without noise or fault.
        subtask: What it works on.
    """

    pictures: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    subtask: str


def run_episode(
    arm: TabletopArm,
    plan: EpisodePlan,
    noise: NoiseSettings,
    cameras: Mapping[str, tuple[int, int]],
    fps: int,
    record: Callable[[Step], None],
) -> bool:
    """Run an episode from its reset to its end.

    It ends a moment after the task is done, or when the operator gives up.

    Args:
        arm: To drive.
        plan: Of the episode.
        noise: On what is carried out; the actions are without it.
        cameras: (height, width) by camera.
        fps: Frames per second; divides the ticks of the loop.
        record: Called with each frame.

    Returns:
        Whether the task is done in the end.
    """
    arm.reset(plan.layout_seed, plan.layout)
    if plan.start is not None:
        arm.place_arm(plan.start)
    rng = np.random.default_rng(plan.seed)
    driver = _Driver(arm, plan, Bursts(noise, rng), round(1 / (fps * TICK)))
    fault = make_fault(plan.fault, arm, rng) if plan.fault else None
    end: float | None = None
    while arm.time < (plan.limit if end is None else end) - 1e-9:
        if fault and arm.time >= plan.onset:
            driver.fault = fault
        state = arm.joint_positions
        pictures = {
            name: arm.render(name, width, height) for name, (height, width) in cameras.items()
        }
        action = driver.drive()
        record(Step(pictures, state, action, driver.subtask))
        if not arm.task_done(plan.task):
            end = None
        elif end is None:
            end = arm.time + LINGER
    return end is not None


class _Driver:
    """The expert at the controls, for one frame after the other."""

    def __init__(self, arm: TabletopArm, plan: EpisodePlan, bursts: Bursts, ticks: int) -> None:
        self.fault = Fault()
        self.subtask = ""
        self._arm, self._bursts, self._ticks = arm, bursts, ticks
        self._expert = ScriptedExpert()
        self._pilot = Pilot(arm, self._plan, plan.task, Timing())
        self._sent = arm.joint_positions
        self._offset = np.zeros(6)

    def drive(self) -> np.ndarray:
        """Let a frame pass; returns what was to be commanded at its end (6,)."""
        before, self._offset = self._offset, self._bursts.draw()
        for weight in np.linspace(0.0, 1.0, self._ticks + 1)[1:]:
            wanted = self._pilot.command()
            # Near the table even little noise would make a mess of things.
            care = np.clip(self._arm.tool_position[2] / LEVEL, CAREFUL, 1.0)
            offset = care * (before + weight * (self._offset - before))
            step = self.fault.act(wanted + offset) - self._sent
            velocity = np.clip(step / TICK, -VELOCITY, VELOCITY)
            self._sent = self._sent + velocity * TICK
            self._arm.command(self._sent, velocity)
            self._arm.advance(round(TICK / TIMESTEP))
        return wanted

    def _plan(self, state: np.ndarray, scene: np.ndarray, task: str) -> np.ndarray:
        try:
            targets, self.subtask = self._expert.plan(state, self.fault.see(scene), task)
        except ValueError:  # a cube was thrown off the table, and there is nothing left to do
            return state[None]
        return targets
