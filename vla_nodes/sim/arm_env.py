# SPDX-License-Identifier: Apache-2.0
"""The tabletop arm as a gymnasium environment, ``vla_nodes/TabletopArm-v0``."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vla_nodes.sim.arm import HOME, TabletopArm
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.scene import LOWER, TIMESTEP, UPPER, VELOCITY
from vla_nodes.sim.tasks import CLEAR, parse_task

FPS = 20
IMAGE = 96
_SUBSTEPS = round(1 / (FPS * TIMESTEP))


class TabletopArmEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Put cubes into a tray, as told.

    An action is six absolute joint targets (rad, and metres of finger opening), reached over one
    twentieth of a second as far as the joints' speed limits allow. An observation holds the
    images ``front`` and ``wrist`` (96, 96, 3) and the measured joint positions ``state`` (6,).
    The episode ends with reward 1 when the task is done; info tells ``task``, ``success`` and
    ``progress``.

    Options of ``reset`` are ``task`` and the fields of ``LayoutOptions``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.arm = TabletopArm()
        self.task = CLEAR
        image = spaces.Box(0, 255, (IMAGE, IMAGE, 3), np.uint8)
        # Measured positions may pass the limits by a little, as a joint's stop gives way.
        state = spaces.Box(LOWER - 0.1, UPPER + 0.1, dtype=np.float64)
        self.observation_space = spaces.Dict({"front": image, "wrist": image, "state": state})
        self.action_space = spaces.Box(LOWER, UPPER, dtype=np.float64)
        self._reference = HOME

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Lay the table anew; see the class about the options.

        Raises:
            ValueError: The task is unknown, or names a cube that the layout does not have.
            TypeError: There is no such option.
        """
        super().reset(seed=seed)
        layout = dict(options or {})
        self.task = layout.pop("task", CLEAR)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self.arm.reset(seed, LayoutOptions(**layout))
        parse_task(self.task, self.arm.colours)
        self._reference = HOME
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move towards the joint targets for one twentieth of a second."""
        velocity = np.clip((action - self._reference) * FPS, -VELOCITY, VELOCITY)
        for _ in range(_SUBSTEPS):
            self._reference = self._reference + velocity * TIMESTEP
            self.arm.command(self._reference, velocity)
            self.arm.advance()
        info = self._info()
        return self._observation(), float(info["success"]), info["success"], False, info

    def render(self) -> np.ndarray | None:
        """The overview (480, 640, 3) in mode rgb_array."""
        return self.arm.render("overview", 640, 480) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the renderers."""
        self.arm.close()

    def _observation(self) -> dict[str, np.ndarray]:
        images = {camera: self.arm.render(camera, IMAGE, IMAGE) for camera in ("front", "wrist")}
        return {**images, "state": self.arm.joint_positions}

    def _info(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "success": self.arm.task_done(self.task),
            "progress": self.arm.progress(self.task),
        }


gymnasium.register(
    "vla_nodes/TabletopArm-v0",
    f"{TabletopArmEnv.__module__}:{TabletopArmEnv.__name__}",
    max_episode_steps=60 * FPS,
)
