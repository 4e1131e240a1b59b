# SPDX-License-Identifier: Apache-2.0
"""A video holds each frame at its own time, or there is no file."""

from pathlib import Path

import av
import numpy as np
import pytest

from vla_nodes.display.video import VideoWriter

SECOND = 10**9
START = 1_700_000_000 * SECOND + 123_456_789
LEFT, RIGHT = (200, 60, 40), (30, 90, 180)


def frame(shade: int = 0) -> np.ndarray:
    """Two patches, and a grey band that tells frames apart."""
    picture = np.empty((64, 96, 3), np.uint8)
    picture[:, :48], picture[:, 48:] = LEFT, RIGHT
    picture[48:] = shade
    return picture


def record(path: Path, *frames: np.ndarray, start: int = START, step: int = SECOND) -> None:
    with VideoWriter(path, fps=20) as video:
        for i, picture in enumerate(frames):
            video.write(picture, start + i * step)


def decode(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Times (s) and pictures of a file."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    return [f.time for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_come_back_at_their_times_and_in_their_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = tmp_path / "made" / "episode.mp4"
    offsets = [0.0, 0.05, 0.1, 0.15, 2.15, 2.2, 2.25]  # two seconds of pause
    with VideoWriter(path, fps=20) as video:
        for i, offset in enumerate(offsets):
            assert video.write(frame(30 * i), START + round(offset * SECOND))
    times, pictures = decode(path)
    assert times == pytest.approx(offsets, abs=1e-3)
    for i, picture in enumerate(pictures):
        assert picture.shape == (64, 96, 3)
        for patch, colour in (
            (picture[8:40, 8:40], LEFT),
            (picture[8:40, 56:88], RIGHT),
            (picture[52:60, 8:88], (30 * i,) * 3),
        ):
            assert np.abs(patch.mean(axis=(0, 1)) - colour).max() < 12
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_h264_in_yuv420p(tmp_path: Path) -> None:
    record(tmp_path / "a.mp4", frame())
    with av.open(str(tmp_path / "a.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


def test_jittering_stamps_keep_their_frames(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, 100)
    stamps = START + ((np.arange(100) / 20 + jitter) * SECOND).astype(int)
    with VideoWriter(tmp_path / "a.mp4", fps=20) as video:
        written = [video.write(frame(), int(stamp)) for stamp in stamps]
    ticks = np.rint((stamps - stamps[0]) * 20 / SECOND)
    assert sum(written) == len(set(ticks))
    assert decode(tmp_path / "a.mp4")[0] == pytest.approx(sorted(set(ticks / 20)), abs=1e-3)


def test_stamps_that_repeat_or_go_back_are_skipped(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=20) as video:
        offsets = [0.0, 0.05, 0.05, 0.0, -5.0, 0.1]
        written = [video.write(frame(), START + round(o * SECOND)) for o in offsets]
    assert written == [True, True, False, False, False, True]
    assert len(decode(tmp_path / "a.mp4")[0]) == 3


def test_an_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "a.mp4", fps=20) as video:
            video.write(frame(), START)
            assert not (tmp_path / "a.mp4").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_last_video_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("the last one")
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", fps=20):
        raise KeyboardInterrupt
    assert (tmp_path / "a.mp4").read_text() == "the last one"


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.mp4.part").write_bytes(b"rubbish" * 10_000)
    record(tmp_path / "a.mp4", frame())
    assert len(decode(tmp_path / "a.mp4")[0]) == 1
    assert not (tmp_path / "a.mp4.part").exists()


def test_a_video_without_frames_is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame was written"):
        record(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (frame()[:-2], r"uint8 \(62, 96, 3\); it must be uint8 \(64, 96, 3\)"),
        (frame() / 255, r"float64 \(64, 96, 3\); it must be uint8"),
    ],
    ids=["size", "type"],
)
def test_a_frame_unlike_the_first_is_refused(tmp_path: Path, second: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        record(tmp_path / "a.mp4", frame(), second)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [frame()[:-1], frame()[:, :-1], frame()[:0], frame()[..., 0]])
def test_a_first_frame_that_cannot_be_encoded_is_refused(tmp_path: Path, first: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be even"):
        record(tmp_path / "a.mp4", first)


def test_a_jump_of_the_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all stamps must be of one clock"):
        record(tmp_path / "a.mp4", frame(), frame(), start=0, step=START)


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        VideoWriter(tmp_path / "file" / "a.mp4", fps=20).__enter__()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_rate_of_nothing_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "a.mp4", fps)
