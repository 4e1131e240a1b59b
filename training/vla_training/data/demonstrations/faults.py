# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in episodes that fail: a wrong idea of the scene, or commands that go astray.

All of it lasts until the operator gives up, for the expert would make good a single mishap.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_nodes.sim.arm import TabletopArm
from vla_nodes.sim.expert import OPEN
from vla_nodes.sim.layout import AREA
from vla_nodes.sim.scene import CUBES, JOINTS
from vla_nodes.sim.tasks import inside_tray
from vla_training.data.demonstrations.episode_plan import FaultKind
from vla_training.data.demonstrations.noise import Bursts, NoiseSettings

Change = Callable[[np.ndarray], np.ndarray]

# More than this, and fingers that strike the table are bent out of what joints of the kind do.
SHAKING = NoiseSettings(noise_share=0.8, noise_size=0.10)
SHAKES = 0.05  # s between draws of the above
LIFTED = 0.035  # m above which a cube at the tool has been lifted
AT_TOOL = 0.02  # m from tool to cube
GRIP_LASTS = (0.0, 0.3)  # s for which a slipping grip holds a lifted cube
HELD_LASTS = (0.05, 0.9)  # s after which a lifted cube is knocked away
SLIP = 0.4  # s for which the fingers are open then
ASIDE = (0.065, 0.10)  # m from a cube to where an arm that goes astray reaches for it
OUTSIDE = (0.14, 0.17)  # m from the tray to where cubes are misplaced


def _unchanged(vector: np.ndarray) -> np.ndarray:
    return vector


@dataclass(frozen=True)
class Fault:
    """Something that is wrong from now on.

    Attributes:
        see: From the scene vector to what the expert takes it for.
        act: From the command (6,) of a tick to what is carried out; may do things to the arm.
    """

    see: Change = _unchanged
    act: Change = _unchanged


def make_fault(kind: FaultKind, arm: TabletopArm, rng: np.random.Generator) -> Fault:
    """A fault of a kind, with what is random about it drawn."""
    return _MAKERS[kind](arm, rng)


def _slipping(arm: TabletopArm, rng: np.random.Generator) -> Fault:
    """Each time a cube is lifted, the fingers open a moment later."""
    slips_at = opened_until = -1.0

    def act(command: np.ndarray) -> np.ndarray:
        nonlocal slips_at, opened_until
        if arm.time < opened_until:
            return np.append(command[:5], OPEN)
        if not _carries(arm):
            slips_at = -1.0
        elif slips_at < 0.0:
            slips_at = arm.time + rng.uniform(*GRIP_LASTS)
        elif arm.time > slips_at:
            opened_until = arm.time + SLIP
        return command

    return Fault(act=act)


def _knocked(arm: TabletopArm, rng: np.random.Generator) -> Fault:
    """Each time a cube is lifted, it is knocked away a moment later."""
    knocked_at = -1.0

    def act(command: np.ndarray) -> np.ndarray:
        nonlocal knocked_at
        if not _carries(arm):
            knocked_at = -1.0
        elif knocked_at < 0.0:
            knocked_at = arm.time + rng.uniform(*HELD_LASTS)
        elif arm.time > knocked_at:
            arm.knock()
        return command

    return Fault(act=act)


def _blocked(arm: TabletopArm, _: np.random.Generator) -> Fault:
    """The joints do not move any more."""

    def act(command: np.ndarray) -> np.ndarray:
        arm.block(True)
        return command

    return Fault(act=act)


def _astray(_: TabletopArm, rng: np.random.Generator) -> Fault:
    """The arm reaches beside every cube, towards the middle of the table."""
    turn, distance = rng.uniform(-1.0, 1.0), rng.uniform(*ASIDE)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def see(scene: np.ndarray) -> np.ndarray:
        seen = scene.copy()
        cubes = seen[: 4 * len(CUBES)].reshape(-1, 4)
        for cube in cubes:
            if cube[2] > 0.0 and not inside_tray(cube, scene[-2:]):
                inwards = AREA.mean(axis=0) - cube[:2]
                cube[:2] += distance * rotation @ inwards / np.linalg.norm(inwards)
        return seen

    return Fault(see=see)


def _misplaced(_: TabletopArm, rng: np.random.Generator) -> Fault:
    """The arm puts cubes beside the tray, and is content."""
    towards = rng.uniform(np.pi / 2, np.pi)  # the table's side, and the arm's
    shift = rng.uniform(*OUTSIDE) * np.array([np.cos(towards), np.sin(towards)])
    return Fault(see=lambda scene: np.append(scene[:-2], scene[-2:] + shift))


def _shaking(arm: TabletopArm, rng: np.random.Generator) -> Fault:
    """The arm sways about far more than it can put right."""
    bursts = Bursts(SHAKING, rng)
    offset: np.ndarray = np.zeros(len(JOINTS))
    target = offset
    drawn = -SHAKES

    def act(command: np.ndarray) -> np.ndarray:
        nonlocal offset, target, drawn
        if arm.time > drawn + SHAKES - 1e-9:
            target, drawn = bursts.draw(), arm.time
        offset = 0.8 * offset + 0.2 * target  # a jolt would make the fingers rattle
        return command + offset

    return Fault(act=act)


def _carries(arm: TabletopArm) -> bool:
    """Whether a cube is at the tool and off the table."""
    scene = arm.scene_vector()[: 4 * len(CUBES)].reshape(-1, 4)
    near = np.linalg.norm(scene[:, :3] - arm.tool_position, axis=1) < AT_TOOL
    return bool((near & (scene[:, 2] > LIFTED)).any())


_MAKERS: dict[FaultKind, Callable[[TabletopArm, np.random.Generator], Fault]] = {
    "shaking": _shaking,
    "slipping": _slipping,
    "knocked": _knocked,
    "blocked": _blocked,
    "astray": _astray,
    "misplaced": _misplaced,
}
