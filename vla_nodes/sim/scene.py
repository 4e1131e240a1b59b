# SPDX-License-Identifier: Apache-2.0
"""What there is on the table and how big it is: arm, gripper, cubes, distractors and tray.

World frame: metres, the arm's base at the origin, x towards the front camera, z up, the tabletop
at z = 0. ``mjcf`` builds the model from these numbers.
"""

import numpy as np

JOINTS = ("pan", "lift", "elbow", "flex", "roll", "gripper")
ARM_JOINTS = JOINTS[:5]
JOINT_UNITS = (*("rad" for _ in ARM_JOINTS), "m")
LOWER = np.array([-1.6, -0.6, -2.8, -2.4, -2.4, 0.0])
UPPER = np.array([1.6, 2.2, -0.15, 2.4, 2.4, 0.04])
VELOCITY = np.array([2.5, 2.5, 2.5, 3.0, 3.0, 0.2])

SHOULDER_HEIGHT = 0.14
LINK = 0.24
TOOL = 0.14  # from the flex joint to the point between the fingertips

TIMESTEP = 0.005
# Position servos: force = kp (control - position) - kv velocity.
KP = np.array([90.0, 90.0, 90.0, 90.0, 90.0, 600.0])
KV = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 20.0])
FORCE = np.array([30.0, 30.0, 30.0, 30.0, 30.0, 20.0])  # Nm, and N

CUBE = 0.036
COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.10, 0.28, 0.85),
    "yellow": (0.95, 0.80, 0.08),
}
CUBES = tuple(f"{colour}_cube" for colour in COLOURS)
# Shape, half sizes and colour of things that no task names.
DISTRACTORS = {
    "purple_cube": ("box", (0.018, 0.018, 0.018), (0.50, 0.15, 0.65)),
    "orange_cylinder": ("cylinder", (0.018, 0.020), (0.95, 0.45, 0.05)),
    "white_brick": ("box", (0.028, 0.014, 0.012), (0.92, 0.92, 0.92)),
    "teal_cylinder": ("cylinder", (0.024, 0.010), (0.05, 0.60, 0.62)),
}
OBJECTS = (*CUBES, *DISTRACTORS)
PARKED_Z = -1.0

TRAY_INNER = 0.075  # half width between the walls
TRAY_WALL = 0.02
TRAY_FLOOR = 0.003
TRAY_HOME = (0.27, -0.22)

CAMERAS = ("front", "wrist", "overview")


def scene_names() -> tuple[str, ...]:
    """Names of the scene vector's elements: x, y, z and yaw of each cube, then the tray's x, y."""
    return (
        *(f"{cube}.{axis}" for cube in CUBES for axis in ("x", "y", "z", "yaw")),
        "tray.x",
        "tray.y",
    )


def parked_position(name: str) -> np.ndarray:
    """Where an absent object waits, under the floor and apart from the others (3,)."""
    return np.array([0.1 * OBJECTS.index(name), 0.0, PARKED_Z])
