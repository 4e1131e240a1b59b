# SPDX-License-Identifier: Apache-2.0
"""The simulated arm on its table, without gymnasium and without ROS.

``TabletopArm`` is what a robot driver is to a real arm: it takes joint commands, lets time pass,
and tells joint states and pictures. Beyond a driver it knows the truth about the objects.
"""

import os
from ctypes.util import find_library
from typing import Any

import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl" if find_library("EGL") else "osmesa")
import mujoco

from vla_nodes.sim import kinematics, tasks
from vla_nodes.sim.layout import AREA, MAX_YAW, SPACING, LayoutOptions, sample_layout
from vla_nodes.sim.mjcf import mjcf
from vla_nodes.sim.scene import (
    ARM_JOINTS,
    CAMERAS,
    COLOURS,
    CUBES,
    JOINTS,
    KP,
    KV,
    LOWER,
    OBJECTS,
    UPPER,
    parked_position,
)

HOME_POSE = np.array([0.18, 0.0, 0.22, kinematics.DOWN, 0.0])
HOME = np.append(kinematics.inverse(HOME_POSE, np.array([0.0, 1.6, -1.7, -1.5, 0.0])), 0.04)
REST_SPEED = 0.02  # m/s; a slower cube lies still
CLEARANCE = 0.05  # m between tool and cube when the gripper is out of the way
GIVE = 0.02  # share of a command that a blocked joint still follows
FALL = 0.02  # m that a knocked cube comes down
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class TabletopArm:
    """The arm, its table and its cameras.

    Not thread-safe; rendering must stay on the thread that first rendered.
    """

    def __init__(self) -> None:
        self._model: Any = mujoco.MjModel.from_xml_string(mjcf())
        self._data: Any = mujoco.MjData(self._model)
        self._nominal = {
            name: getattr(self._model, name).copy()
            for name in ("cam_pos", "light_dir", "light_diffuse")
        }
        self._renderers: dict[tuple[int, int], Any] = {}
        self._objects = {name: self._model.body(name).id for name in OBJECTS}
        self._qpos = {name: self._model.joint(name).qposadr[0] for name in OBJECTS}
        self._qvel = {name: self._model.joint(name).dofadr[0] for name in OBJECTS}
        self._joint_qpos = np.array([self._model.joint(name).qposadr[0] for name in JOINTS])
        self._joint_qvel = np.array([self._model.joint(name).dofadr[0] for name in JOINTS])
        self._mirror = self._model.joint("right_finger").qposadr[0]
        self._tool = self._model.site("tool").id
        self._fingers = {self._model.body(f"{side}_finger").id for side in ("left", "right")}
        self.reset(0)

    def reset(self, seed: int, options: LayoutOptions | None = None) -> None:
        """Put the arm at home at time 0 and lay the table; the same seed lays the same table."""
        options = options or LayoutOptions()
        self._rng = rng = np.random.default_rng(seed)
        self._blocked_at: np.ndarray | None = None
        layout = sample_layout(rng, options)
        mujoco.mj_resetData(self._model, self._data)
        self._jitter(rng, options)
        self._data.mocap_pos[0, :2] = layout.tray
        self._present: tuple[str, ...] = ()
        self._model.body_gravcomp[list(self._objects.values())] = 1.0
        for name, (x, y, yaw) in layout.objects.items():
            self.place(name, np.array([x, y, self._half_height(name)]), yaw)
        self.place_arm(HOME)

    def place(self, name: str, position: np.ndarray, yaw: float = 0.0) -> None:
        """Put an object somewhere, at rest.

        Args:
            name: One of ``scene.OBJECTS``; an absent one becomes present.
            position: Its centre (3,).
            yaw: Turn about the vertical, rad.
        """
        at = self._qpos[name]
        self._data.qpos[at : at + 7] = [*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self._data.qvel[self._qvel[name] : self._qvel[name] + 6] = 0.0
        self._model.body_gravcomp[self._objects[name]] = 0.0
        self._present = tuple(n for n in OBJECTS if n == name or n in self._present)
        mujoco.mj_forward(self._model, self._data)

    def place_arm(self, joints: np.ndarray) -> None:
        """Put the arm somewhere (6,), at rest and commanded to stay."""
        self._data.qpos[self._joint_qpos] = joints
        self._data.qpos[self._mirror] = joints[5]
        self._data.qvel[self._joint_qvel] = 0.0
        self._data.qvel[self._model.joint("right_finger").dofadr[0]] = 0.0
        self.command(joints)
        mujoco.mj_forward(self._model, self._data)

    def command(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Set the reference of the joint servos until the next command, unless they are blocked.

        Args:
            positions: Joint positions (6,), rad and m; cut to the joints' ranges.
            velocities: Velocity (6,) at which the reference moves, or None for a fixed one. The
                servo's control is led by kv/kp times it, so that its damping acts on the
                velocity error instead of on the velocity, and the arm does not lag behind.

        Raises:
            ValueError: A value is not finite or the shape is wrong.
        """
        velocities = np.zeros(6) if velocities is None else np.asarray(velocities, dtype=float)
        positions = np.asarray(positions, dtype=float)
        for name, values in (("positions", positions), ("velocities", velocities)):
            if values.shape != (6,) or not np.isfinite(values).all():
                raise ValueError(f"command: {name} is {values}; it must hold 6 finite numbers")
        control = np.clip(positions, LOWER, UPPER) + KV / KP * velocities
        if self._blocked_at is not None:
            control = self._blocked_at + GIVE * (control - self._blocked_at)
        self._data.ctrl[:] = control

    def block(self, blocked: bool) -> None:
        """Make the joints stay where they are whatever is commanded, or follow commands again.

        They give a little, as a real arm does that strains against something. The gripper keeps
        its grip. A reset frees the arm.
        """
        if not blocked:
            self._blocked_at = None
        elif self._blocked_at is None:
            arm = slice(len(ARM_JOINTS))
            self._data.ctrl[arm] = self.joint_positions[arm]
            self._blocked_at = self._data.ctrl.copy()

    def knock(self) -> str:
        """Knock away the cube that is held, or else the one on the table nearest to the tool.

        It comes down elsewhere on the table, within the arm's reach and apart from other things.

        Returns:
            The cube's colour.

        Raises:
            ValueError: No cube lies outside the tray.
        """
        poses = self.objects()
        tray, tool = poses.pop("tray"), self.tool_position
        away = {
            colour: float(np.linalg.norm(poses[f"{colour}_cube"][:3] - tool))
            for colour in self.colours
            if not tasks.inside_tray(poses[f"{colour}_cube"], tray)
        }
        if not away:
            raise ValueError("no cube lies outside the tray")
        colour = min(away, key=away.__getitem__)
        taken = np.array([tool[:2], *(pose[:2] for pose in poses.values())])
        places = self._rng.uniform(AREA[0], AREA[1], (64, 2))
        room = np.linalg.norm(places[:, None] - taken, axis=2).min(axis=1)
        # The first with room for open fingers; where there is none, the one with most.
        place = places[np.argmax(np.minimum(room, SPACING))]
        height = self._half_height(f"{colour}_cube") + FALL
        self.place(
            f"{colour}_cube", np.array([*place, height]), self._rng.uniform(-MAX_YAW, MAX_YAW)
        )
        return colour

    def advance(self, steps: int = 1) -> None:
        """Let ``steps`` times ``scene.TIMESTEP`` seconds pass."""
        mujoco.mj_step(self._model, self._data, steps)

    @property
    def time(self) -> float:
        """Simulated seconds since the reset."""
        return float(self._data.time)

    @property
    def joint_positions(self) -> np.ndarray:
        """Measured (6,), rad and m, in the order of ``scene.JOINTS``."""
        return self._data.qpos[self._joint_qpos].copy()

    @property
    def joint_velocities(self) -> np.ndarray:
        """Measured (6,), rad/s and m/s."""
        return self._data.qvel[self._joint_qvel].copy()

    @property
    def tool_position(self) -> np.ndarray:
        """The point between the fingertips (3,), m."""
        return self._data.site_xpos[self._tool].copy()

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours of the cubes that are present, in the order of ``scene.COLOURS``."""
        return tuple(colour for colour in COLOURS if f"{colour}_cube" in self._present)

    def objects(self) -> dict[str, np.ndarray]:
        """Poses (x, y, z, qw, qx, qy, qz) of the objects that are present and of the tray."""
        poses = {n: self._data.qpos[self._qpos[n] :][:7].copy() for n in self._present}
        return poses | {"tray": np.array([*self._data.mocap_pos[0], 1.0, 0.0, 0.0, 0.0])}

    def scene_vector(self) -> np.ndarray:
        """The cubes and the tray, in the order of ``scene.scene_names``."""
        values = []
        for name in CUBES:
            at = self._qpos[name]
            position = self._data.qpos[at : at + 3]
            if name not in self._present:
                position = parked_position(name)
            values += [*position, _cube_yaw(self._data.xmat[self._objects[name]].reshape(3, 3))]
        return np.array([*values, *self._data.mocap_pos[0, :2]])

    def snapshot(self) -> np.ndarray:
        """The whole physical state, for ``show``."""
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        return state

    def show(self, snapshot: np.ndarray) -> None:
        """Pose everything as in another arm's snapshot, to be rendered here."""
        mujoco.mj_setState(self._model, self._data, snapshot, _STATE)
        mujoco.mj_forward(self._model, self._data)

    def render(self, camera: str, width: int = 96, height: int = 96) -> np.ndarray:
        """A picture (height, width, 3), uint8 RGB; only the overview has shadows.

        Raises:
            ValueError: There is no such camera.
        """
        if camera not in CAMERAS:
            raise ValueError(f"no camera {camera!r}; there are {list(CAMERAS)}")
        key = (width, height)
        if key not in self._renderers:
            self._renderers[key] = mujoco.Renderer(self._model, height, width)
        renderer = self._renderers[key]
        renderer.update_scene(self._data, camera)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = camera == "overview"
        return renderer.render()

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def in_tray(self) -> tuple[str, ...]:
        """Colours of cubes that lie still in the tray, released, with the gripper clear."""
        return tuple(colour for colour in self.colours if self._delivered(colour))

    def subtask_done(self, text: str) -> bool:
        """Whether the cube that a subtask names is delivered.

        Raises:
            ValueError: As ``tasks.parse_task``.
        """
        return self.task_done(text)

    def task_done(self, text: str) -> bool:
        """Whether every cube of a task is delivered."""
        return tasks.next_subtask(tasks.parse_task(text, self.colours), self.in_tray()) is None

    def progress(self, text: str) -> float:
        """How much of a task is done, from 0 to 1, averaged over its cubes.

        A cube's way has two halves: the tool comes to it, then it comes to the tray.
        """
        cubes = tasks.parse_task(text, self.colours).colours
        return float(np.mean([self._cube_progress(colour) for colour in cubes])) if cubes else 1.0

    def _cube_progress(self, colour: str) -> float:
        name = f"{colour}_cube"
        if self._delivered(colour):
            return 1.0
        cube, tray = self.objects()[name][:3], self._data.mocap_pos[0]
        to_tool = min(1.0, float(np.linalg.norm(cube - self.tool_position)) / 0.4)
        if not self._touched(name):
            return 0.4 * (1.0 - to_tool)
        to_tray = min(1.0, float(np.linalg.norm(cube - tray)) / 0.4)
        return 0.4 + 0.5 * (1.0 - to_tray)

    def _delivered(self, colour: str) -> bool:
        name = f"{colour}_cube"
        cube = self.objects()[name][:3]
        velocity = self._data.qvel[self._qvel[name] :][:3]
        return bool(
            tasks.inside_tray(cube, self._data.mocap_pos[0])
            and np.linalg.norm(velocity) < REST_SPEED
            and not self._touched(name)
            and np.linalg.norm(self.tool_position - cube) > CLEARANCE
        )

    def _touched(self, name: str) -> bool:
        """Whether a finger touches an object."""
        bodies = self._model.geom_bodyid[self._data.contact.geom]
        pairs = bodies[(bodies == self._objects[name]).any(axis=1)]
        return bool(np.isin(pairs, list(self._fingers)).any())

    def _half_height(self, name: str) -> float:
        geom = self._model.geom(name)
        cylinder = geom.type[0] == mujoco.mjtGeom.mjGEOM_CYLINDER
        return float(geom.size[1] if cylinder else geom.size[2])

    def _jitter(self, rng: np.random.Generator, options: LayoutOptions) -> None:
        """Vary lights and front camera around their nominal values."""
        for name, values in self._nominal.items():
            getattr(self._model, name)[:] = values
        light, shift = options.light_jitter, options.camera_jitter
        self._model.light_diffuse[:] *= 1.0 + rng.uniform(-light, light)
        self._model.light_dir[:] += rng.uniform(-light, light, self._model.light_dir.shape)
        self._model.cam_pos[self._model.camera("front").id] += rng.uniform(-shift, shift, 3)


def _cube_yaw(rotation: np.ndarray) -> float:
    """Heading of a cube's sides in (-pi/4, pi/4], whichever side it lies on."""
    flattest = rotation[:, np.argmin(np.abs(rotation[2]))]
    yaw = np.arctan2(flattest[1], flattest[0])
    return float(yaw - np.pi / 2 * np.ceil(yaw / (np.pi / 2) - 0.5))
