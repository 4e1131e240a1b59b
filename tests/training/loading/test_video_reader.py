# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from vla_training.data.errors import DataError
from vla_training.data.loading.video_reader import VideoReader

FPS = 10
COUNT = 40
TOLERANCE = 0.25 / FPS


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Drifting noise: too large for the buffer that a file is read through, with B-frames."""
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("h264", rate=FPS, options={"g": "12", "crf": "18"})
        stream.width = stream.height = 192
        for k in range(COUNT):
            picture = av.VideoFrame.from_ndarray(np.roll(noise, 2 * k, axis=1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert path.stat().st_size > 100_000
    return path


@pytest.fixture(scope="module")
def frames(video) -> list[np.ndarray]:
    """Decoded from the first to the last, without seeking."""
    with av.open(video) as container:
        decoded = list(container.decode(video=0))
    assert PictureType.B in {frame.pict_type for frame in decoded}
    return [frame.to_ndarray(format="rgb24") for frame in decoded]


def test_pictures_come_in_any_order(video, frames):
    reader = VideoReader(TOLERANCE, 1)
    for k in [COUNT - 1, 0, COUNT - 1, *np.random.default_rng(0).permutation(COUNT).tolist()]:
        np.testing.assert_array_equal(reader.read(video, k / FPS), frames[k])


@pytest.mark.parametrize("shift", [-0.9, -0.1, 0.1, 0.9])
def test_a_time_within_the_tolerance_of_a_picture_is_its_time(video, frames, shift):
    reader = VideoReader(TOLERANCE, 1)
    for k in range(COUNT):
        np.testing.assert_array_equal(
            reader.read(video, k / FPS + shift * TOLERANCE), frames[k], err_msg=str(k)
        )


@pytest.mark.parametrize("time", [-0.1, 0.05, 1.0 + 2 * TOLERANCE, COUNT / FPS, 1e6])
def test_a_time_without_a_picture_is_an_error(video, frames, time):
    reader = VideoReader(TOLERANCE, 1)
    with pytest.raises(DataError, match=r"noise.mp4 has no picture within .* s of"):
        reader.read(video, time)
    np.testing.assert_array_equal(reader.read(video, 0.3), frames[3])


def test_a_file_that_is_no_video_is_an_error(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(DataError, match=r"text.mp4 cannot be read"):
        VideoReader(TOLERANCE, 1).read(path, 0.0)


def test_a_file_with_sound_alone_is_an_error(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DataError, match=r"sound.mp4 cannot be read"):
        VideoReader(TOLERANCE, 1).read(path, 0.0)


def test_a_forked_process_reads_a_file_of_its_own(video, frames, tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(video.read_bytes())
    reader = VideoReader(TOLERANCE, 1)
    reader.read(path, 0.0)
    before = positions(path)
    assert len(before) == 1

    def read_all() -> None:
        for k in range(COUNT):
            np.testing.assert_array_equal(reader.read(path, k / FPS), frames[k])

    child = multiprocessing.get_context("fork").Process(target=read_all)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert positions(path) == before
    np.testing.assert_array_equal(reader.read(path, 2.0), frames[20])


def test_a_pickled_reader_reads_the_same(video, frames):
    reader = VideoReader(TOLERANCE, 1)
    reader.read(video, 0.0)
    other = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(other.read(video, 1.0), frames[10])


def positions(path: Path) -> list[str]:
    """Where this process's descriptors of a file stand."""
    return [
        Path(f"/proc/self/fdinfo/{link.name}").read_text().splitlines()[0]
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and link.resolve() == path.resolve()
    ]
