# SPDX-License-Identifier: Apache-2.0
"""Camera messages to RGB arrays, and RGB arrays to messages.

Works on anything with the fields of ``sensor_msgs/msg/Image`` or ``CompressedImage``:
rclpy hands the bytes over as ``array('B')``, bag readers as a numpy array or ``bytes``,
and ``numpy.frombuffer`` reads each of them without a copy. cv_bridge would do, but the
one from apt is built against numpy 1 and fails to import beside numpy 2.

Arrays returned may share the message's memory: read them, do not write to them.
"""

import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Camera
from vla_nodes.observation.errors import CodecError, expect
from vla_nodes.observation.headers import read_header

Picture = npt.NDArray[Any]  # (H, W, 3) uint8 RGB, or (H, W) uint16 depth

# Encoding -> (bytes per pixel, conversion to RGB or None where the bytes are the picture).
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "16UC1": (2, None),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
}


def decode_camera(camera: Camera, message: Any) -> Picture:
    """Decodes and crops a frame of a camera.

    Args:
        camera: What the contract says about the stream.
        message: ``Image`` or ``CompressedImage``, as ``camera.type`` says.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W) uint16 depth; (H, W) is ``camera.shape``.

    Raises:
        CodecError: The frame is corrupt or is not what the contract says.
    """
    check_camera(camera, message)
    if _is_compressed(camera):
        picture = decode_compressed(message)
    else:
        picture = decode_image(message, camera.encoding)
    if camera.crop is None:
        return picture
    x, y, width, height = camera.crop
    return picture[y : y + height, x : x + width]


def check_camera(camera: Camera, message: Any) -> None:
    """Compares a frame's header with the contract; reads no pixel, so it costs little.

    Raises:
        CodecError: Encoding, size or length differ, or a compressed frame is cut short.
    """
    if _is_compressed(camera):
        header = read_header(message.data)
        expect("compressed format", header.format, camera.encoding)
        expect("width", header.width, camera.width)
        expect("height", header.height, camera.height)
    else:
        expect("width", message.width, camera.width)
        expect("height", message.height, camera.height)
        _check_image(message, camera.encoding)


def decode_image(message: Any, encoding: str) -> Picture:
    """Turns a raw image into RGB.

    Rows may be padded (``step`` above width times pixel size). ``rgb8``, and ``16UC1`` of
    this machine's byte order, are views of the message's bytes.

    Args:
        message: ``sensor_msgs/msg/Image``.
        encoding: The encoding that it has to have.

    Returns:
        (H, W, 3) uint8 RGB; for ``16UC1`` (H, W) uint16 as it came.

    Raises:
        CodecError: Another or an unknown encoding, or sizes that contradict each other.
    """
    _check_image(message, encoding)
    channels, conversion = _ENCODINGS[encoding]
    height, width, step = message.height, message.width, message.step
    pixels = np.frombuffer(message.data, np.uint8)
    if encoding == "16UC1":
        order = ">u2" if message.is_bigendian else "<u2"
        depth: Picture = np.ndarray((height, width), order, pixels, strides=(step, 2))
        return depth.astype(np.uint16, copy=False)
    shape, strides = (height, width, channels), (step, channels, 1)
    rows: Picture = np.ndarray(shape, np.uint8, pixels, strides=strides)
    if conversion is None:
        return rows
    try:
        return cv2.cvtColor(rows, conversion)
    except cv2.error as error:  # an odd width of yuv422, whose pixels share colour in pairs
        raise CodecError(f"{encoding} of {width} x {height} px: expected {error.err}") from error


def decode_compressed(message: Any) -> Picture:
    """Turns a JPEG or PNG into RGB.

    Its declared size is read and bounded first, so a small message cannot claim gigabytes.
    Damage inside a JPEG's scan cannot be told from a picture (there is no checksum); a scan
    that ends early, which some decoders fill with grey, is refused.

    Args:
        message: ``sensor_msgs/msg/CompressedImage``.

    Returns:
        (H, W, 3) uint8 RGB; for a 16-bit grey PNG (H, W) uint16 as it came.

    Raises:
        CodecError: Not JPEG or PNG, too large, cut short, or corrupt.
    """
    header = read_header(message.data)
    if header.depth16:
        flags = cv2.IMREAD_ANYDEPTH
    else:
        # Turning pictures by their EXIF data would contradict the size that was checked.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    except cv2.error as error:
        raise CodecError(f"{header.format} data is corrupt: {error.err}") from error
    if picture is None or picture.shape[:2] != (header.height, header.width):
        raise CodecError(
            f"{header.format} data is corrupt: its header is whole, its pixels are not"
        )
    return picture if header.depth16 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def fill_image(message: Any, rgb: npt.NDArray[np.uint8]) -> None:
    """Puts a picture into an ``Image`` message as ``rgb8``; leaves its header alone.

    Args:
        message: ``sensor_msgs/msg/Image``.
        rgb: (H, W, 3) uint8.

    Raises:
        CodecError: Another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise CodecError(f"picture is {rgb.shape} {rgb.dtype}, expected (H, W, 3) uint8")
    message.height, message.width = rgb.shape[:2]
    message.encoding = "rgb8"
    message.step = 3 * message.width
    message.is_bigendian = 0
    # rclpy takes an array('B') as it is; anything else it checks and copies byte by byte.
    data = array.array("B")
    data.frombytes(memoryview(np.ascontiguousarray(rgb)))
    message.data = data


def _is_compressed(camera: Camera) -> bool:
    return camera.type == "sensor_msgs/msg/CompressedImage"


def _check_image(message: Any, encoding: str) -> None:
    expect("encoding", message.encoding, encoding)
    if encoding not in _ENCODINGS:
        raise CodecError(f"encoding is {encoding!r}, expected one of {', '.join(_ENCODINGS)}")
    smallest = message.width * _ENCODINGS[encoding][0]
    if message.step < smallest:
        raise CodecError(f"step is {message.step}, expected {smallest} or more for {encoding}")
    expect("data length", len(message.data), message.step * message.height)
