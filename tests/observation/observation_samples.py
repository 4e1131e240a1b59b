# SPDX-License-Identifier: Apache-2.0
"""Messages and contracts for the tests of observations."""

from types import SimpleNamespace

import numpy as np

from vla_nodes.contract.schema import Camera, Contract, StateSource

MS = 1_000_000
EPOCH = 1_790_000_000_123_456_789  # a stamp of the year 2026, ns
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def camera(name="front", encoding="rgb8", size=(8, 6), crop=None, max_age=0.15, raw=True):
    """A camera of (width, height) ``size``."""
    kind = RAW if raw else COMPRESSED
    return Camera(name, f"/{name}", kind, encoding, size[0], size[1], max_age, crop)


def arm(name="arm", joints=("a", "b"), max_age=0.1, **options):
    return StateSource(name, f"/{name}", joints, max_age, **options)


def contract(cameras=None, states=None, reference="front", timeline="header", max_skew=0.06):
    cameras = (camera(),) if cameras is None else cameras
    states = (arm(),) if states is None else states
    return Contract("robot", 20.0, timeline, reference, max_skew, cameras, states, ())


def image(pixels, encoding="rgb8", step=None, bigendian=0):
    """An Image of an (H, W) or (H, W, C) array, its rows padded with 0xee up to ``step``."""
    height, width = pixels.shape[:2]
    rows = np.frombuffer(np.ascontiguousarray(pixels).tobytes(), np.uint8).reshape(height, -1)
    step = step or rows.shape[1]
    padded = np.full((height, step), 0xEE, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=step,
        is_bigendian=bigendian,
        data=padded.tobytes(),
    )


def flat_image(value=0, size=(8, 6)):
    """An rgb8 frame of one grey value."""
    return image(np.full((size[1], size[0], 3), value, np.uint8))


def joints(position, name=("a", "b"), velocity=(), effort=()):
    return SimpleNamespace(
        name=list(name),
        position=np.array(position, float),
        velocity=np.array(velocity, float),
        effort=np.array(effort, float),
    )
