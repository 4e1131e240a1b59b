# SPDX-License-Identifier: Apache-2.0
"""A scripted expert that plans chunks of joint targets from measured poses.

The expert has no memory. What it does next depends only on where the tool, the fingers and the
cubes are, and its speed only on how far the tool is from where it starts and stops. So chunks
planned from successive observations lie on the same motion, a missed grasp is simply tried again,
and the expert can take over from any pose.
"""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from vla_nodes.sim.arm import HOME_POSE
from vla_nodes.sim.kinematics import DOWN, differential, forward
from vla_nodes.sim.scene import COLOURS, CUBE, LOWER, TRAY_FLOOR, UPPER
from vla_nodes.sim.tasks import inside_tray, parse_task, subtask_text

OPEN = 0.04
RELEASE = 0.027  # wide enough to let go without touching the neighbours in the tray
GRIP = 0.006  # commanded while a cube is held: the servo's error is what squeezes it
CONTACT = 0.0205  # fingers further in than this, with a cube between them, hold it
CLOSING = 0.026  # fingers further in than this, with a cube on the table between them, are closing

GRASP_Z = CUBE / 2
PLACE_Z = TRAY_FLOOR + CUBE / 2 + 0.002
LEVEL = GRASP_Z + 0.085  # tool height for going sideways
BEND = 0.06  # m of height over which the way up becomes the way sideways
SLOT = 0.032  # m from the tray's middle to where cubes are put, one quarter for each colour

SPEED = 0.30  # m/s
CREEP = 0.05  # m/s, at the start and the end of a motion
RAMP = 0.5  # m/s^2
TURN = 1.2  # rad/s
FINGER_SPEED = 0.15  # m/s
JOINT_SPEED = np.array([2.0, 2.0, 2.0, 2.4, 2.4])  # rad/s, inside what a controller allows

SUBSTEPS = 4


@dataclass(frozen=True)
class Goal:
    """Where the tool should be heading.

    Attributes:
        pose: Tool pose (5,).
        gripper: Finger position, m.
    """

    pose: np.ndarray
    gripper: float


@dataclass(frozen=True)
class Scene:
    """A scene vector taken apart.

    Attributes:
        cubes: (x, y, z, yaw) by colour, of the cubes that are on the table or in the tray.
        tray: Centre (x, y).
    """

    cubes: dict[str, np.ndarray]
    tray: np.ndarray

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> "Scene":
        """Take a vector in the order of ``scene.scene_names``; cubes below the table are absent.

        Raises:
            ValueError: The vector has the wrong length or holds a number that is not finite.
        """
        vector = np.asarray(vector, dtype=float)
        expected = 4 * len(COLOURS) + 2
        if vector.shape != (expected,) or not np.isfinite(vector).all():
            raise ValueError(f"scene vector {vector}: must hold {expected} finite numbers")
        poses = zip(COLOURS, vector[:-2].reshape(-1, 4), strict=True)
        return cls({c: pose for c, pose in poses if pose[2] > -0.02}, vector[-2:])


@dataclass(frozen=True)
class Held:
    """A cube in the gripper.

    Attributes:
        colour: Of the cube.
        offset: From the tool to the cube's centre (3,), m.
        slot: Where in the tray it goes (2,), m.
    """

    colour: str
    offset: np.ndarray
    slot: np.ndarray


class ScriptedExpert:
    """Plans chunks for the tasks of ``tasks.parse_task``."""

    def plan(
        self,
        state: np.ndarray,
        scene: np.ndarray,
        task: str,
        steps: int = 16,
        dt: float = 1 / 20,
    ) -> tuple[np.ndarray, str]:
        """Joint targets from here on.

        Whether a cube is held, and which subtask is on, is taken from what is measured and not
        foreseen: a chunk that closes the gripper waits with it closed until the end.

        Args:
            state: Measured joint positions (6,).
            scene: Scene vector, as named by ``scene.scene_names``.
            task: A task or a subtask.
            steps: Length T of the chunk.
            dt: Seconds between targets.

        Returns:
            Absolute joint targets (T, 6), the i-th due (i + 1) dt after the measurement, and the
            subtask's text; the last subtask's when all is done.

        Raises:
            ValueError: The task is unknown or names a cube that is absent, or the state or scene
                vector is malformed.
        """
        joints = np.array(state, dtype=float)
        if joints.shape != (6,) or not np.isfinite(joints).all():
            raise ValueError(f"state {state}: must hold 6 finite joint positions")
        world = Scene.from_vector(scene)
        colours = parse_task(task, tuple(world.cubes)).colours
        if not colours:
            raise ValueError(f"{task!r}: there is no cube to put away")
        held, joints[5] = _measure_grip(world, joints)
        current = held.colour if held else _next(colours, world, forward(joints))
        targets = np.empty((steps, 6))
        for i in range(steps):
            for _ in range(SUBSTEPS):
                joints = _toward(_goal(colours, held, world, joints), joints, dt / SUBSTEPS)
            targets[i] = joints
        return targets, subtask_text(current if current in colours else colours[-1])


def _measure_grip(world: Scene, joints: np.ndarray) -> tuple[Held | None, float]:
    """What the gripper holds, and the finger position to plan from.

    Where a cube stops the fingers, planning from the measured position would soften the grip.
    """
    tool, gripper = forward(joints), joints[5]
    for colour, cube in world.cubes.items():
        offset = cube[:3] - tool[:3]
        if np.abs(offset).max() < 0.015:
            if gripper < CONTACT:
                return Held(colour, offset, _free_slot(colour, world)), GRIP
            if gripper < CLOSING and not inside_tray(cube, world.tray):
                return None, GRIP
    return None, gripper


def _next(colours: tuple[str, ...], world: Scene, tool: np.ndarray) -> str | None:
    """The cube to see to: one in the tray that the tool must rise from, or the first outside."""
    inside = [c for c, cube in world.cubes.items() if inside_tray(cube, world.tray)]
    leaving = (c for c in inside if not _clear(world.cubes[c], tool))
    outside = (c for c in colours if c not in inside)
    return next(chain(leaving, outside), None)


def _clear(cube: np.ndarray, tool: np.ndarray) -> bool:
    """Whether the tool has risen from a cube, or is at another one."""
    return bool(tool[2] - cube[2] > 0.055 or np.linalg.norm(tool[:2] - cube[:2]) > 0.04)


def _goal(colours: tuple[str, ...], held: Held | None, world: Scene, joints: np.ndarray) -> Goal:
    """The goal of the phase that measured poses say we are in."""
    tool, gripper = forward(joints), joints[5]
    if held:
        if held.colour in colours:
            return _place(held, tool, gripper)
        return _set_down(held, tool, gripper)
    colour = _next(colours, world, tool)
    if colour is None:
        return Goal(_rising_first(tool, HOME_POSE), OPEN)
    if inside_tray(world.cubes[colour], world.tray):
        return _leave(tool, gripper)
    return _grasp(world.cubes[colour], tool, gripper)


def _grasp(cube: np.ndarray, tool: np.ndarray, gripper: float) -> Goal:
    """Come from above with open fingers, and close them around the cube."""
    yaw = _nearest_side(cube[3], tool)
    # Once the fingers close they may drag the cube a little: then nearness is judged laxer.
    near = 0.006 if gripper > 0.9 * OPEN else 0.012
    offset = np.append(tool[:3] - cube[:3], 0.03 * (tool[4] - yaw))
    if np.abs(offset).max() < near:
        return Goal(np.array([*cube[:3], DOWN, yaw]), GRIP)
    pose = _from_above(tool, np.array([*cube[:2], max(cube[2], GRASP_Z), DOWN, yaw]))
    if gripper < 0.8 * OPEN:
        pose[2] = LEVEL
    return Goal(pose, OPEN)


def _free_slot(colour: str, world: Scene) -> np.ndarray:
    """Where in the tray (2,) to put a cube: in its own quarter, or the next one with more room."""
    quarters = np.array([[1, -1], [1, 1], [-1, -1], [-1, 1]])
    slots = world.tray + SLOT * np.roll(quarters, -list(COLOURS).index(colour), axis=0)
    others = [cube[:2] for c, cube in world.cubes.items() if c != colour]
    room = [min([0.05, *(float(np.linalg.norm(s - other)) for other in others)]) for s in slots]
    return slots[np.argmax(room)]


def _place(held: Held, tool: np.ndarray, gripper: float) -> Goal:
    """Lift the cube, carry it over its place in the tray, lower it and let go."""
    target = np.array([*held.slot, PLACE_Z]) - held.offset
    if gripper > CONTACT or np.abs(tool[:3] - target).max() < 0.004:
        return Goal(tool, RELEASE)
    return Goal(_from_above(tool, np.array([*target, DOWN, _nearest_side(0.0, tool)])), GRIP)


def _set_down(held: Held, tool: np.ndarray, gripper: float) -> Goal:
    """Put a cube that the task does not want back on the table, right below."""
    height = PLACE_Z - held.offset[2]
    if gripper > CONTACT or tool[2] < height + 0.004:
        return Goal(tool, OPEN)
    return Goal(np.array([*tool[:2], height, DOWN, tool[4]]), GRIP)


def _leave(tool: np.ndarray, gripper: float) -> Goal:
    """Open the fingers as far as the neighbours in the tray allow, then rise."""
    rise = np.array([*tool[:2], LEVEL, DOWN, tool[4]])
    return Goal(rise if gripper > 0.9 * RELEASE else tool, RELEASE)


def _from_above(tool: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A pose on the way to the target: up, sideways, and down a funnel over it.

    The way down opens as the tool gets over the target and has turned to it.
    """
    aside = np.linalg.norm(target[:2] - tool[:2]) + 0.03 * abs(target[4] - tool[4])
    pose = target.copy()
    pose[2] += np.clip(4.0 * (aside - 0.003), 0.0, max(0.0, LEVEL - target[2]))
    return _rising_first(tool, pose)


def _rising_first(tool: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The pose, brought nearer sideways so that the tool bends from its way up to its way over."""
    below = (min(pose[2], LEVEL) - 0.01 - tool[2]) / BEND
    if below <= 0.0:
        return pose
    aside = pose[:2] - tool[:2]
    # The heading turns evenly from upright, one BEND below the level, to sideways.
    reach = BEND * below * np.tan(np.pi / 2 * (1.0 - min(below, 1.0)))
    pose = pose.copy()
    pose[:2] = tool[:2] + aside * min(1.0, reach / max(float(np.linalg.norm(aside)), 1e-9))
    return pose


def _nearest_side(side: float, tool: np.ndarray) -> float:
    """Tool yaw, of the four that align with a cube's sides, that turns the roll joint least."""
    pan = np.arctan2(tool[1], tool[0])
    roll = tool[4] - pan
    # Half of the present roll makes a tie near 45 degrees go to the side already chosen.
    quarter = np.pi / 2
    return side + quarter * np.round((pan + roll / 2 - side) / quarter)


def _toward(goal: Goal, joints: np.ndarray, h: float) -> np.ndarray:
    """Joint positions (6,) one substep of h seconds nearer to the goal.

    The tool's speed depends on its distance from the places where motions begin and end: the
    goal, the table's level and home. It is the speed that constant acceleration from there gives.
    """
    tool = forward(joints)
    way = goal.pose - tool
    distance = np.linalg.norm(way[:3])
    begun = min(abs(tool[2] - GRASP_Z), float(np.linalg.norm(tool[:3] - HOME_POSE[:3])))
    ramp = min(SPEED, np.sqrt(CREEP**2 + 2.0 * RAMP * begun))
    speed = min(ramp, np.sqrt(CREEP**2 + 2.0 * RAMP * distance))
    step = np.empty(5)
    step[:3] = way[:3] * min(1.0, speed * h / max(distance, 1e-9))
    turn = TURN * ramp / SPEED
    step[3:] = np.clip(way[3:] * min(1.0, 8.0 * h), -turn * h, turn * h)
    arm = differential(joints, step)
    arm /= max(1.0, float(np.max(np.abs(arm) / (JOINT_SPEED * h))))
    finger = np.clip(goal.gripper - joints[5], -FINGER_SPEED * h, FINGER_SPEED * h)
    return np.clip(joints + np.append(arm, finger), LOWER, UPPER)
