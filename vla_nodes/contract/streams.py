# SPDX-License-Identifier: Apache-2.0
"""The streams that a contract names: cameras and joint states."""

from vla_nodes.contract.document import Entry
from vla_nodes.contract.schema import Camera, Qos, StateSource
from vla_nodes.contract.values import (
    JOINT,
    PREFIX,
    TOPIC,
    Kind,
    choice,
    integer,
    listing,
    number,
    section,
    suggest,
)

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
JOINT_STATE = "sensor_msgs/msg/JointState"

ENCODINGS = {
    IMAGE: (
        *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1"),
        *("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"),
        *("yuv422", "yuv422_yuy2"),
    ),
    COMPRESSED_IMAGE: ("jpeg", "png"),
    # Packets of a video, which only a bag is read from.
    COMPRESSED_VIDEO: ("h264", "hevc"),
    FFMPEG_PACKET: ("h264", "hevc"),
}

JOINTS = listing(JOINT, least=1, most=256)
UNITS = choice("rad", "deg", "m", "normalized")
# The bound catches milliseconds, which would switch the check on stale input off.
SECONDS = number("s", above=0, most=10)

_QOS = {
    "reliability": choice("best_effort", "reliable"),
    "depth": integer("messages", 1, 1000),
}


def _read_qos(entry: Entry) -> Qos:
    return Qos(**section(entry, {}, _QOS))


QOS = Kind("a mapping with reliability and depth", _read_qos)

_PIXELS = integer("pixels", 1, 8192)
_CAMERA = {
    "topic": TOPIC,
    "type": choice(*ENCODINGS),
    "encoding": choice(*(encoding for known in ENCODINGS.values() for encoding in known)),
    "width": _PIXELS,
    "height": _PIXELS,
    "max_age": SECONDS,
}
_CAMERA_OPTIONAL = {
    "crop": listing(integer("pixels", 0, 8192), least=4, most=4, unique=False),
    "qos": QOS,
}

_STATE = {"topic": TOPIC, "joints": JOINTS, "max_age": SECONDS}
_STATE_OPTIONAL = {
    "type": choice(JOINT_STATE),
    "fields": listing(choice("position", "velocity", "effort"), least=1, most=3),
    "units": UNITS,
    "prefix": PREFIX,
    "qos": QOS,
}


def read_camera(name: str, entry: Entry) -> Camera:
    """Reads one entry of ``cameras``.

    Raises:
        ContractError: If it breaks a rule.
    """
    camera = Camera(name=name, **section(entry, _CAMERA, _CAMERA_OPTIONAL))
    known = ENCODINGS[camera.type]
    if camera.encoding not in known:
        found = f"{camera.encoding}, which is no encoding of {camera.type}"
        raise entry.at("encoding").error(found, suggest(camera.encoding, known))
    if camera.crop:
        x, y, width, height = camera.crop
        if not (width and height and x + width <= camera.width and y + height <= camera.height):
            raise entry.at("crop").error(
                f"{list(camera.crop)} in a frame of {camera.width} x {camera.height}",
                "write [x, y, width, height] of a rectangle inside the frame",
            )
    return camera


def read_state(name: str, entry: Entry) -> StateSource:
    """Reads one entry of ``states``.

    Raises:
        ContractError: If it breaks a rule.
    """
    values = section(entry, _STATE, _STATE_OPTIONAL)
    values.pop("type", None)  # there is one type only
    return StateSource(name=name, **values)
