# SPDX-License-Identifier: Apache-2.0
"""A shard is there wholly, or it is not there."""

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from shard_samples import H264, Episode, noise, picture, schema, write_shard

from vla_training.data.errors import DataError
from vla_training.data.schema import Outcome
from vla_training.data.writing.shards import ShardWriter, read_shard
from vla_training.data.writing.video_settings import VideoSettings

SIDE = schema(cameras={"side": (48, 64)})


def test_a_shard_reads_back_as_it_was_written(tmp_path):
    episode = Episode(7, first=5, task="prends le café", subtasks=("reach", "", "größer"))
    episode = Episode(**{**vars(episode), "outcome": Outcome.FAILURE})
    shard = read_shard(write_shard(tmp_path / "deep" / "er" / "0", episode))
    assert (shard.length, shard.task, shard.outcome) == (7, "prends le café", Outcome.FAILURE)
    assert shard.source == {"bag": "0", "start": 5}
    columns = shard.columns
    assert columns["observation.state"].dtype == columns["action"].dtype == np.float32
    np.testing.assert_array_equal(columns["observation.state"], episode.state.astype(np.float32))
    np.testing.assert_array_equal(columns["action"], episode.action.astype(np.float32))
    np.testing.assert_array_equal(columns["bag_time_ns"], episode.times)
    assert columns["subtask"].tolist() == episode.subtask
    assert shard.videos.keys() == shard.statistics.keys() == {"front", "wrist"}
    for path in shard.videos.values():
        with av.open(str(path), "r") as container:
            assert container.streams.video[0].frames == 7


def test_its_folder_appears_with_the_last_byte(tmp_path):
    folder = tmp_path / "0"
    with ShardWriter(folder, SIDE, H264, 2) as shard:
        for k in range(2):
            shard.add({"side": picture(k, (48, 64))}, np.zeros(2), np.zeros(3), k, "")
            assert [path.name for path in tmp_path.iterdir()] == ["0.partial"]
        shard.finish("wave", Outcome.UNKNOWN, {})
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert {path.name for path in folder.iterdir()} == {"columns.npz", "side.mp4", "shard.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, None])
def test_an_episode_that_is_not_finished_leaves_nothing(tmp_path, error):
    def interrupted() -> None:
        with ShardWriter(tmp_path / "0", SIDE, VideoSettings(), 100) as shard:
            for k in range(30):
                shard.add({"side": picture(k, (48, 64))}, np.zeros(2), np.zeros(3), k, "")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            interrupted()
    else:
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("video", [H264, VideoSettings()], ids=lambda video: video.vcodec)
def test_equal_input_makes_equal_bytes(tmp_path, video):
    one, other = (
        write_shard(tmp_path / name / "0", Episode(11, subtasks=("a", "b")), video=video)
        for name in ("one", "other")
    )
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_a_shard_is_never_overwritten(tmp_path):
    write_shard(tmp_path / "0", Episode(2))
    with pytest.raises(DataError, match="0: exists already"):
        write_shard(tmp_path / "0", Episode(3))
    assert read_shard(tmp_path / "0").length == 2


def test_an_episode_without_frames_is_refused(tmp_path):
    with ShardWriter(tmp_path / "0", SIDE, H264, 0) as shard, pytest.raises(DataError) as error:
        shard.finish("wave", Outcome.SUCCESS, {})
    assert "at least one frame" in str(error.value)
    assert list(tmp_path.iterdir()) == []


GOOD: dict[str, Any] = {
    "pictures": {"side": picture(0, (48, 64))},
    "state": np.zeros(2),
    "action": np.zeros(3),
    "bag_time_ns": 20,
    "subtask": "",
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pictures": {}}, r"frame 1: has pictures of \[\] instead of \['side'\]"),
        ({"pictures": {**GOOD["pictures"], "top": 0}}, r"frame 1: .*\['side', 'top'\]"),
        ({"pictures": {"side": picture(0, (64, 48))}}, r"camera side, frame 1: .*\(64, 48, 3\)"),
        ({"pictures": {"side": np.zeros((48, 64, 3))}}, "camera side, frame 1: .*float64"),
        ({"pictures": {"side": np.zeros((48, 64), np.uint16)}}, "frame 1: .*uint16.*depth"),
        ({"state": np.zeros(3)}, r"frame 1: observation.state of shape \(3,\) instead of \(2,\)"),
        ({"action": np.zeros((1, 3))}, r"frame 1: action of shape \(1, 3\) instead of \(3,\)"),
        ({"state": np.array([0, np.nan])}, "frame 1: observation.state lift is not a finite"),
        ({"action": np.array([0, 1e300, 0])}, "frame 1: action lift is not a finite"),
        ({"bag_time_ns": 10}, "frame 1: its time 10 ns is not after 10 ns"),
    ],
)
def test_a_frame_that_does_not_fit_is_named(tmp_path, wrong, message):
    with ShardWriter(tmp_path / "0", SIDE, H264, 2) as shard:
        shard.add(**{**GOOD, "bag_time_ns": 10})
        with pytest.raises(DataError, match=message):
            shard.add(**{**GOOD, **wrong})


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A write beyond that size fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("cameras", [{"side": (48, 64)}, {}])
def test_a_disk_that_takes_no_more_ends_the_shard(tmp_path, cameras):
    episode = Episode(300)
    with largest_file(4000), pytest.raises(DataError, match="File too large") as error:
        write_shard(tmp_path / "0", episode, schema(cameras=cameras), paint=noise)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "0.partial") in str(error.value)
    assert list(tmp_path.iterdir()) == []


def edit(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "shard.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def pickled(folder: Path) -> None:
    np.savez(folder / "columns.npz", **{"observation.state": np.array([{}], object)})


@pytest.mark.parametrize(
    "damage",
    [
        cut("shard.json"),
        cut("columns.npz"),
        lambda folder: (folder / "columns.npz").unlink(),
        pickled,
        lambda folder: (folder / "columns.npz").write_bytes(b""),
        edit("format", 99),
        edit("length", 5),
        edit("outcome", 7),
        edit("statistics", {"../../front": {}}),
        edit("statistics", []),
        shutil.rmtree,
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, damage):
    folder = write_shard(tmp_path / "0", Episode(4), SIDE)
    damage(folder)
    with pytest.raises(DataError, match=str(folder)):
        read_shard(folder)
