# SPDX-License-Identifier: Apache-2.0
"""Forward and differential inverse kinematics of the arm.

A tool pose is (x, y, z, pitch, yaw): the point between the fingertips in metres, the angle of
the tool above the horizon (-pi/2 points straight down) and pan + roll, which is the heading of
the finger's axis while the tool points down. Five numbers for five joints, so no redundancy is
left.
"""

import numpy as np

from vla_nodes.sim.scene import LINK, LOWER, SHOULDER_HEIGHT, TOOL, UPPER

DOWN = -np.pi / 2


def forward(joints: np.ndarray) -> np.ndarray:
    """Tool pose (5,) of joint positions (5,) or (6,); the gripper has no part in it."""
    pan, reach, height, pitch = _planar(joints)
    return np.array(
        [
            reach.sum() * np.cos(pan),
            reach.sum() * np.sin(pan),
            SHOULDER_HEIGHT + height.sum(),
            pitch,
            pan + joints[4],
        ]
    )


def jacobian(joints: np.ndarray) -> np.ndarray:
    """Derivative (5, 5) of the tool pose by the five arm joints."""
    pan, reach, height, _ = _planar(joints)
    # A pitching joint turns all that lies beyond it.
    d_reach = -np.cumsum(height[::-1])[::-1]
    d_height = np.cumsum(reach[::-1])[::-1]
    matrix = np.zeros((5, 5))
    matrix[0] = [-reach.sum() * np.sin(pan), *(d_reach * np.cos(pan)), 0.0]
    matrix[1] = [reach.sum() * np.cos(pan), *(d_reach * np.sin(pan)), 0.0]
    matrix[2, 1:4] = d_height
    matrix[3, 1:4] = 1.0
    matrix[4, [0, 4]] = 1.0
    return matrix


def differential(joints: np.ndarray, change: np.ndarray, damping: float = 0.02) -> np.ndarray:
    """Joint step for a small change of the tool pose, by damped least squares.

    Solves min |J dq - change|^2 + damping^2 |dq|^2 (Wampler 1986; Nakamura and Hanafusa 1986),
    which stays bounded where the arm is stretched out.

    Args:
        joints: Joint positions (5,) or (6,).
        change: Wished change of the tool pose (5,).
        damping: In metres per radian; larger is slower and safer near singular poses.

    Returns:
        Joint step (5,), cut so that no joint leaves its limits.
    """
    matrix = jacobian(joints)
    step = np.linalg.solve(matrix.T @ matrix + damping**2 * np.eye(5), matrix.T @ change)
    return np.clip(joints[:5] + step, LOWER[:5], UPPER[:5]) - joints[:5]


def inverse(pose: np.ndarray, start: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """Joint positions that bring the tool to a pose.

    Args:
        pose: Tool pose (5,).
        start: Joint positions (5,) or (6,) from which the search begins.
        tolerance: Largest error that counts as reached, in metres and radians.

    Returns:
        Joint positions (5,).

    Raises:
        ValueError: The pose lies out of reach.
    """
    joints = np.array(start[:5], dtype=float)
    for _ in range(200):
        error = pose - forward(joints)
        if np.abs(error).max() < tolerance:
            return joints
        largest = np.abs(error[:3]).max()
        joints += differential(joints, error * min(1.0, 0.05 / max(largest, 1e-9)))
    raise ValueError(
        f"tool pose {np.round(pose, 3).tolist()} (x, y, z, pitch, yaw) is out of reach: the search "
        f"ended {np.abs(error).max():.3g} away; wrists reach {2 * LINK} m from the shoulder"
    )


def _planar(joints: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Pan, each link's horizontal and vertical extent (3,), and the tool's pitch."""
    angles = np.cumsum(joints[1:4])
    lengths = np.array([LINK, LINK, TOOL])
    return joints[0], lengths * np.cos(angles), lengths * np.sin(angles), angles[2]
