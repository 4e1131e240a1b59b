# SPDX-License-Identifier: Apache-2.0
import array
import colorsys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_samples import camera, image

from vla_nodes.observation.codecs import decode_camera, decode_image, fill_image
from vla_nodes.observation.errors import CodecError

RNG = np.random.default_rng(3)
BAYER = {
    "bayer_rggb8": ((0, 1), (1, 2)),
    "bayer_bggr8": ((2, 1), (1, 0)),
    "bayer_gbrg8": ((1, 2), (0, 1)),
    "bayer_grbg8": ((1, 0), (2, 1)),
}
COLOURS = [tuple(round(255 * v) for v in colorsys.hsv_to_rgb(h / 12, 0.7, 0.8)) for h in range(12)]


def pixels(channels, height=6, width=8):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)),
        ("bgr8", (2, 1, 0)),
        ("rgba8", (0, 1, 2)),
        ("bgra8", (2, 1, 0)),
        ("mono8", (0, 0, 0)),
    ],
)
def test_packed_encodings_become_rgb_whatever_the_row_padding(encoding, order, padding):
    channels = 1 if encoding == "mono8" else len(encoding) - 1
    raw = pixels(channels)
    message = image(raw, encoding, step=8 * channels + padding)
    expected = np.stack([raw[..., i] for i in order], axis=-1)
    picture = decode_image(message, encoding)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("bigendian", [0, 1])
@pytest.mark.parametrize("padding", [0, 3])
def test_depth_keeps_its_sixteen_bits_in_either_byte_order(bigendian, padding):
    depth = RNG.integers(0, 1 << 16, (6, 8), dtype=np.uint16)
    stored = depth.astype(">u2" if bigendian else "<u2")
    message = image(stored, "16UC1", step=16 + padding, bigendian=bigendian)
    picture = decode_image(message, "16UC1")
    assert picture.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(picture, depth)


@pytest.mark.parametrize("encoding", BAYER)
def test_a_bayer_mosaic_of_one_colour_gives_that_colour(encoding):
    for colour in COLOURS:
        cell = np.array([[colour[channel] for channel in row] for row in BAYER[encoding]], np.uint8)
        picture = decode_image(image(np.tile(cell, (4, 5)), encoding, step=13), encoding)
        assert picture.shape == (8, 10, 3)
        np.testing.assert_allclose(picture, np.broadcast_to(colour, picture.shape), atol=1)


@pytest.mark.parametrize(("encoding", "layout"), [("yuv422", "UYVY"), ("yuv422_yuy2", "YUYV")])
def test_yuv_of_one_colour_gives_that_colour(encoding, layout):
    for red, green, blue in COLOURS:
        # ITU-R BT.601, studio range.
        r, g, b = red / 255, green / 255, blue / 255
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        parts = {
            "Y": 16 + 219 * luma,
            "U": 128 + 224 * (b - luma) / 1.772,
            "V": 128 + 224 * (r - luma) / 1.402,
        }
        pair = np.array([round(parts[letter]) for letter in layout], np.uint8).reshape(1, 2, 2)
        picture = decode_image(image(np.tile(pair, (4, 3, 1)), encoding, step=15), encoding)
        assert picture.shape == (4, 6, 3)
        np.testing.assert_allclose(picture, np.broadcast_to((red, green, blue), (4, 6, 3)), atol=4)


def test_yuv_takes_the_luma_of_each_pixel_in_order():
    for encoding, luma_first in (("yuv422", 0), ("yuv422_yuy2", 1)):
        raw = np.full((2, 4, 2), 128, np.uint8)
        raw[..., 1 - luma_first] = [16, 90, 160, 235]
        grey = decode_image(image(raw, encoding), encoding)[0, :, 1].astype(int)
        np.testing.assert_allclose(grey, (np.array([16, 90, 160, 235]) - 16) * 255 / 219, atol=1)


def test_rgb_is_read_without_a_copy():
    message = image(pixels(3))
    message.data = array.array("B", message.data)
    assert np.shares_memory(decode_image(message, "rgb8"), np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize("make", [bytes, bytearray, lambda d: np.frombuffer(d, np.uint8)])
def test_every_kind_of_bytes_reads_alike(make):
    raw = pixels(3)
    message = image(raw, "bgr8")
    message.data = make(message.data)
    np.testing.assert_array_equal(decode_image(message, "bgr8"), raw[..., ::-1])


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**32 - 1))
def test_what_is_filled_in_is_what_is_read(height, width, transposed, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgb = rgb.transpose(1, 0, 2) if transposed else rgb
    message = SimpleNamespace()
    fill_image(message, rgb)
    assert isinstance(message.data, array.array)
    np.testing.assert_array_equal(decode_image(message, "rgb8"), rgb)


def test_a_ros_message_can_be_filled_and_read():
    messages = pytest.importorskip("sensor_msgs.msg")
    rgb, message = pixels(3), messages.Image()
    message.header.frame_id = "front"
    fill_image(message, rgb)
    assert message.header.frame_id == "front"
    np.testing.assert_array_equal(decode_camera(camera(), message), rgb)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_only_rgb_bytes_can_be_filled_in(picture):
    with pytest.raises(CodecError, match=r"expected \(H, W, 3\) uint8"):
        fill_image(SimpleNamespace(), picture)


def test_a_crop_cuts_x_before_y():
    raw = pixels(3)
    cut = decode_camera(camera(crop=(2, 1, 5, 4)), image(raw))
    np.testing.assert_array_equal(cut, raw[1:5, 2:7])
    assert cut.shape[:2] == camera(crop=(2, 1, 5, 4)).shape


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("encoding", "bgr8", "encoding is 'bgr8', expected 'rgb8'"),
        ("width", 9, "width is 9, expected 8"),
        ("height", 5, "height is 5, expected 6"),
        ("step", 23, "step is 23, expected 24 or more for rgb8"),
        ("step", 25, "data length is 144, expected 150"),
        ("data", b"\0" * 143, "data length is 143, expected 144"),
        ("data", b"", "data length is 0, expected 144"),
    ],
)
def test_a_frame_that_contradicts_the_contract_is_refused_by_field(field, value, complaint):
    message = image(pixels(3))
    setattr(message, field, value)
    with pytest.raises(CodecError, match=complaint):
        decode_camera(camera(), message)


def test_an_encoding_nobody_reads_is_refused():
    with pytest.raises(CodecError, match="expected one of rgb8, bgr8"):
        decode_image(image(pixels(3), "hsv8"), "hsv8")


def test_an_odd_width_of_shared_colour_is_refused():
    with pytest.raises(CodecError, match="yuv422 of 7 x 6 px"):
        decode_image(image(pixels(2, width=7), "yuv422"), "yuv422")
