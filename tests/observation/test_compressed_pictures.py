# SPDX-License-Identifier: Apache-2.0
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from observation_samples import camera

from vla_nodes.observation.codecs import decode_camera, decode_compressed
from vla_nodes.observation.errors import CodecError
from vla_nodes.observation.headers import MAX_PIXELS, read_header

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([4 * X, 5 * Y, 2 * (X + Y)], axis=-1).astype(np.uint8)


def compressed(data):
    return SimpleNamespace(format="jpeg", data=bytes(data))


def encode(suffix, rgb=RGB, *options):
    return cv2.imencode(suffix, rgb[..., ::-1], options)[1].tobytes()


JPEG, PNG = encode(".jpg"), encode(".png")
PROGRESSIVE = encode(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = encode(".jpg", RGB, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, RESTARTS])
def test_a_jpeg_gives_its_colours(data):
    error = decode_compressed(compressed(data)).astype(int) - RGB
    assert np.abs(error).mean() < 3


def test_a_png_gives_its_pixels():
    np.testing.assert_array_equal(decode_compressed(compressed(PNG)), RGB)


def test_a_png_of_sixteen_bit_grey_stays_so():
    depth = (1000 * X + Y).astype(np.uint16)
    data = cv2.imencode(".png", depth)[1]
    picture = decode_compressed(compressed(data))
    assert picture.dtype == np.uint16
    np.testing.assert_array_equal(picture, depth)


def test_grey_pictures_become_rgb():
    grey = (3 * X).astype(np.uint8)
    picture = decode_compressed(compressed(cv2.imencode(".png", grey)[1]))
    np.testing.assert_array_equal(picture, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, RESTARTS, PNG], ids=len)
def test_a_picture_cut_short_anywhere_is_never_a_picture(data):
    for length in [*range(0, len(data) - 8, 5), *range(len(data) - 8, len(data))]:
        with pytest.raises(CodecError):
            read_header(data[:length])  # whatever this build of OpenCV would make of it
        with pytest.raises(CodecError):
            decode_compressed(compressed(data[:length]))


def test_a_jpeg_that_runs_into_the_next_is_refused():
    with pytest.raises(CodecError):
        decode_compressed(compressed(JPEG[: len(JPEG) // 2] + JPEG))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    padded = decode_compressed(compressed(JPEG + b"\0" * 9))
    np.testing.assert_array_equal(padded, decode_compressed(compressed(JPEG)))


def test_a_marker_may_have_fill_bytes():
    filled = JPEG[:2] + b"\xff\xff" + JPEG[2:-2] + b"\xff" + JPEG[-2:]
    assert read_header(filled) == ("jpeg", WIDTH, HEIGHT, False)


def test_a_picture_in_the_metadata_does_not_count_as_the_end():
    inner = encode(".jpg", RGB[:8, :8])
    exif = b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner
    data = JPEG[:2] + exif + JPEG[2:]
    assert read_header(data) == ("jpeg", WIDTH, HEIGHT, False)
    with pytest.raises(CodecError, match="cut short"):
        read_header(data[: len(data) // 2])


def test_a_turned_picture_is_not_turned_back():
    tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + b"\0" * 4
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    turned = decode_compressed(compressed(JPEG[:2] + exif + JPEG[2:]))
    np.testing.assert_array_equal(turned, decode_compressed(compressed(JPEG)))


def png_declaring(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_declaring(width, height):
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


@pytest.mark.parametrize("declare", [png_declaring, jpeg_declaring])
@pytest.mark.parametrize("size", [(65535, 65535), (7681, 4320), (0, 64), (64, 0)])
def test_a_declared_size_out_of_bounds_is_refused_before_decoding(declare, size, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(CodecError, match=rf"declares {size[0]} x {size[1]} px.*{MAX_PIXELS}"):
        decode_compressed(compressed(declare(*size)))


def test_another_size_than_the_contract_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    front = camera(encoding="jpeg", size=(WIDTH, HEIGHT), raw=False)
    for declared, complaint in (
        ((WIDTH + 1, HEIGHT), "width is 65, expected 64"),
        ((WIDTH, HEIGHT + 1), "height is 49, expected 48"),
    ):
        with pytest.raises(CodecError, match=complaint):
            decode_camera(front, compressed(jpeg_declaring(*declared)))


def test_another_format_than_the_contract_is_refused():
    front = camera(encoding="jpeg", size=(WIDTH, HEIGHT), raw=False)
    with pytest.raises(CodecError, match="format is 'png', expected 'jpeg'"):
        decode_camera(front, compressed(PNG))


def test_a_compressed_frame_is_cropped():
    front = camera(encoding="png", size=(WIDTH, HEIGHT), crop=(10, 20, 30, 8), raw=False)
    np.testing.assert_array_equal(decode_camera(front, compressed(PNG)), RGB[20:28, 10:40])


@pytest.mark.parametrize("data", [b"", b"GIF89a...", b"\xff\xd8\xff\xd9", b"\xff\xd8", PNG[:8]])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(CodecError):
        decode_compressed(compressed(data))


def test_a_png_with_a_flipped_bit_is_never_a_picture():
    for at in range(41, len(PNG) - 12, 11):
        damaged = bytearray(PNG)
        damaged[at] ^= 4
        with pytest.raises(CodecError):
            decode_compressed(compressed(damaged))


def test_noise_in_a_jpeg_raises_nothing_but_codec_errors():
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(JPEG)
        for at in rng.integers(0, len(JPEG), 3):
            damaged[at] = rng.integers(256)
        try:
            picture = decode_compressed(compressed(damaged))
        except CodecError:
            continue
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
