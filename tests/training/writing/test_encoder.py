# SPDX-License-Identifier: Apache-2.0
"""Pictures come out of a video as LeRobot's own encoder would have put them in."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from lerobot.datasets.video_utils import StreamingVideoEncoder
from shard_samples import H264, noise, picture, psnr, schema

from vla_training.data.errors import DataError
from vla_training.data.writing.encoder import (
    CameraEncoder,
    check_video,
    encode_video,
    encoder_config,
)
from vla_training.data.writing.picture_statistics import PictureStatistics
from vla_training.data.writing.video_settings import VideoSettings

SIZE = (64, 96)


def decoded(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    with av.open(str(path), "r") as container:
        frames = [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    return [time for time, _ in frames], [picture for _, picture in frames]


def encoder(path: Path, video: VideoSettings = H264, fps: int = 30) -> CameraEncoder:
    return CameraEncoder("front", path, SIZE, fps, encoder_config(video), expected_frames=10)


@pytest.mark.parametrize("video", [H264, VideoSettings()], ids=lambda video: video.vcodec)
def test_pictures_are_bit_for_bit_those_of_lerobots_encoder(tmp_path, video):
    pictures = [picture(k, SIZE) for k in range(9)]
    ours = encoder(tmp_path / "ours.mp4", video)
    theirs = StreamingVideoEncoder(30, encoder_config(video), encoder_threads=1)
    theirs.start_episode(["front"], tmp_path)
    for one in pictures:
        ours.add(one)
        theirs.feed_frame("front", one)
    ours.finish()
    path, _ = theirs.finish_episode()["front"]

    _, got = decoded(tmp_path / "ours.mp4")
    _, expected = decoded(path)
    np.testing.assert_array_equal(got, expected)
    assert min(map(psnr, got, pictures)) > 33


@pytest.mark.parametrize("codec", ["h264", "hevc", "libsvtav1"])
@pytest.mark.parametrize("gop", [2, 30])
def test_a_frame_is_shown_at_its_number_over_fps_exactly(tmp_path, codec, gop):
    preset = None if codec == "libsvtav1" else "ultrafast"
    for length, fps in ((1, 24), (2, 50), (7, 30), (13, 20)):
        path = tmp_path / f"{length}.mp4"
        config = encoder_config(VideoSettings(codec, 30, preset, gop))
        pictures = (picture(k, SIZE) for k in range(length))
        assert encode_video(pictures, str(path), SIZE, fps, config) == length
        times, got = decoded(path)
        assert times == [Fraction(k, fps) for k in range(length)]
        assert [nearest(one, length) for one in got] == list(range(length))


def nearest(one: np.ndarray, count: int) -> int:
    return int(np.argmax([psnr(one, picture(k, SIZE)) for k in range(count)]))


def test_read_only_and_mirrored_pictures_are_taken_as_they_look(tmp_path):
    plain = picture(3, SIZE)
    frozen = plain.copy()
    frozen.flags.writeable = False
    of_a_larger_one = np.pad(plain, ((5, 5), (7, 7), (0, 0)))[5:-5, 7:-7]
    mirrored = plain[:, ::-1]
    one = encoder(tmp_path / "v.mp4")
    for each in (plain, frozen, of_a_larger_one, mirrored):
        one.add(each)
    one.finish()
    _, got = decoded(tmp_path / "v.mp4")
    for each in got[:3]:
        assert psnr(each, plain) > 33
    assert psnr(got[3], mirrored) > 33


def test_no_picture_is_lost_when_the_producer_is_faster_than_the_encoder(tmp_path):
    one = encoder(tmp_path / "v.mp4", VideoSettings("h264", 18, "veryslow", 2))
    for k in range(120):
        one.add(noise(k % 4, SIZE))
    one.finish()
    times, _ = decoded(tmp_path / "v.mp4")
    assert times == [Fraction(k, 30) for k in range(120)]


def test_an_encoder_that_fails_stops_its_producer_with_the_reason(tmp_path):
    one = encoder(tmp_path / "not a folder" / "v.mp4")

    def produce() -> None:
        while True:
            one.add(picture(0, SIZE))

    with pytest.raises(DataError, match=r"camera front: cannot encode.*No such file or directory"):
        produce()
    with pytest.raises(DataError, match="No such file or directory"):
        one.finish()


def test_an_encoder_can_be_aborted_at_any_time(tmp_path):
    for length in (0, 1, 40):
        one = encoder(tmp_path / f"{length}.mp4", VideoSettings())
        for k in range(length):
            one.add(picture(k, SIZE))
        one.abort()
        one.abort()
    finished = encoder(tmp_path / "finished.mp4")
    finished.add(picture(0, SIZE))
    finished.finish()
    finished.abort()
    assert decoded(tmp_path / "finished.mp4")[0] == [0]


@pytest.mark.parametrize(
    ("video", "size", "message"),
    [
        (H264, (64, 65), "front: h264 .* 65x64: .* even size .* --resize"),
        (H264, (63, 64), "front: h264 .* 64x63: .* even size .* --resize"),
        (VideoSettings("hevc"), (8, 8), "front: hevc .* 8x8: .* even size of at least"),
        (VideoSettings(), (2, 2), "front: libsvtav1 .* 2x2: .* even size of at least"),
        (VideoSettings("h264", preset="brisk"), SIZE, "h264 .preset brisk.* give a preset"),
        (VideoSettings("divx"), SIZE, "video settings: Invalid vcodec 'divx'"),
        (VideoSettings(preset=14), SIZE, "preset=14.* out of range"),
        (VideoSettings(preset="fast"), SIZE, "preset='fast' is not numeric"),
        (VideoSettings(gop=0), SIZE, "g=0 must be a positive integer"),
    ],
)
def test_what_the_codec_does_not_take_is_said_beforehand(video, size, message):
    with pytest.raises(DataError, match=message) as error:
        check_video(video, schema(cameras={"side": SIZE, "front": size}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [SIZE, (480, 640), (65, 71)])
def test_sizes_that_come_back_as_they_were_are_taken(size):
    check_video(VideoSettings(), schema(cameras={"front": size, "wrist": size}))


def test_statistics_are_those_of_all_pixels():
    pictures = np.array([noise(k, SIZE) // (1 + k % 3) for k in range(7)])
    statistics = PictureStatistics(len(pictures))
    for one in pictures:
        statistics.add(one)
    got = statistics.result()
    pixels = pictures.reshape(-1, 3)
    assert got.pop("count").tolist() == [len(pixels)]
    expected = {
        "min": pixels.min(axis=0),
        "max": pixels.max(axis=0),
        "mean": pixels.mean(axis=0),
        "std": pixels.std(axis=0),
        **{
            f"q{percent:02d}": np.quantile(pixels, percent / 100, axis=0, method="inverted_cdf")
            for percent in (1, 10, 50, 90, 99)
        },
    }
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-12, err_msg=key)


def test_statistics_agree_with_lerobots_streaming_encoder(tmp_path):
    pictures = [noise(k, SIZE) // 2 for k in range(5)]
    theirs = StreamingVideoEncoder(30, encoder_config(H264), encoder_threads=1)
    theirs.start_episode(["front"], tmp_path)
    statistics = PictureStatistics(len(pictures))
    for one in pictures:
        theirs.feed_frame("front", one)
        statistics.add(one)
    _, expected = theirs.finish_episode()["front"]
    got = statistics.result()
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        assert got[key].shape == values.shape, key
        np.testing.assert_allclose(got[key], values, atol=1 if key[0] == "q" else 0.02)


def test_of_a_long_episode_some_frames_are_looked_at_and_all_are_counted():
    size = (320, 480)
    shades = np.arange(1000) % 251
    statistics = PictureStatistics(len(shades))
    for shade in shades:
        statistics.add(np.broadcast_to(np.uint8(shade), (*size, 3)))
    got = statistics.result()
    assert got["count"].tolist() == [len(shades) * 107 * 160]  # every third row and column
    np.testing.assert_allclose(got["mean"], shades.mean(), atol=3)
    np.testing.assert_allclose(got["std"], shades.std(), atol=3)
