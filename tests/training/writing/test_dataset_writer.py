# SPDX-License-Identifier: Apache-2.0
"""Datasets made of shards are what LeRobot itself reads, number for number."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from shard_samples import (
    CAMERAS,
    H264,
    Episode,
    dataset_digest,
    noise,
    picture,
    psnr,
    schema,
    write_shard,
)

from vla_training.data.errors import DataError
from vla_training.data.schema import Outcome
from vla_training.data.writing import dataset_writer
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.episode_writer import Metadata
from vla_training.data.writing.shards import read_shard
from vla_training.data.writing.video_settings import VideoSettings

EPISODES = [
    Episode(7, 0, "nimm den Würfel", Outcome.SUCCESS, ("reach", "reach", "")),
    Episode(1, 7, "挥手", Outcome.FAILURE),
    Episode(12, 8, "nimm den Würfel", Outcome.UNKNOWN, ("grasp", "reach")),
    Episode(3, 20, "挥手", Outcome.SUCCESS, ("",)),
]


@pytest.fixture(autouse=True)
def _reader_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make(folder: Path, episodes=EPISODES, of=None, video=H264, paint=picture) -> Path:
    of = of or schema()
    shards = [
        write_shard(folder / "shards" / str(k), episode, of, video, paint)
        for k, episode in enumerate(episodes)
    ]
    write_dataset(folder / "out", shards, of, video, {"contract": "sha256:0"})
    return folder / "out"


def load(root: Path, **options) -> LeRobotDataset:
    return LeRobotDataset(root.name, root=root, video_backend="pyav", **options)


def pixels(frame) -> np.ndarray:
    return frame.mul(255).round().byte().permute(1, 2, 0).numpy()


def test_lerobot_reads_every_number_and_every_picture(tmp_path):
    dataset = load(make(tmp_path))
    numbers = [number for episode in EPISODES for number in episode.numbers]
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (4, 23, 30)
    assert dataset.meta.robot_type == "sample_arm"
    sources = {
        camera: [picture(number, size) for number in numbers] for camera, size in CAMERAS.items()
    }
    items = iter(dataset)
    for index, episode in enumerate(EPISODES):
        for k, number in enumerate(episode.numbers):
            item = next(items)
            np.testing.assert_array_equal(
                item["observation.state"], episode.state[k].astype(np.float32)
            )
            np.testing.assert_array_equal(item["action"], episode.action[k].astype(np.float32))
            assert item["bag_time_ns"] == episode.times[k]
            assert item["subtask"] == episode.subtask[k]
            assert item["subtask_index"] == {"": -1, "reach": 0, "grasp": 1}[episode.subtask[k]]
            assert item["outcome"] == episode.outcome
            assert item["task"] == episode.task
            assert (item["episode_index"], item["frame_index"]) == (index, k)
            assert item["index"] == number
            assert item["timestamp"] == np.float32(k / 30)
            for camera in CAMERAS:
                got = pixels(item[f"observation.images.{camera}"])
                likeness = [psnr(got, source) for source in sources[camera]]
                assert int(np.argmax(likeness)) == numbers.index(number)
                assert max(likeness) > 33
    assert next(items, None) is None


def test_windows_of_frames_stay_within_their_episode(tmp_path):
    key = "observation.images.front"
    around = {key: [-1 / 30, 0, 1 / 30], "action": [0, 1 / 30]}
    dataset = load(make(tmp_path), delta_timestamps=around)
    for index, expected in ((0, [0, 0, 1]), (6, [5, 6, 6]), (7, [7, 7, 7]), (8, [8, 8, 9])):
        item = dataset[index]
        for frame, number in zip(item[key], expected, strict=True):
            assert psnr(pixels(frame), picture(number, CAMERAS["front"])) > 33
        last = index in (6, 7)
        assert item["action_is_pad"].tolist() == [False, last]
        after = min(index + 1, expected[2])
        np.testing.assert_allclose(item["action"][1, 0], after * 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("codec", "fps"), [("libsvtav1", 24), ("libsvtav1", 50), ("h264", 20), ("hevc", 24)]
)
def test_short_episodes_in_one_file_keep_exact_times(tmp_path, codec, fps):
    lengths = (1, 2, 7, 1, 13, 5)
    firsts = np.cumsum((0, *lengths[:-1])).tolist()
    video = VideoSettings(codec, 25, None if codec == "libsvtav1" else "ultrafast", 30)
    of = schema(fps, {"side": (48, 64)})
    root = make(tmp_path, [Episode(n, k) for n, k in zip(lengths, firsts, strict=True)], of, video)

    episodes = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    key = "observation.images.side"
    starts = episodes[f"videos/{key}/from_timestamp"].to_numpy()
    stops = episodes[f"videos/{key}/to_timestamp"].to_numpy()
    np.testing.assert_array_equal(starts, [k / fps for k in firsts])
    np.testing.assert_array_equal(
        stops, [(k + n) / fps for n, k in zip(lengths, firsts, strict=True)]
    )
    assert len(list((root / "videos" / key).rglob("*.mp4"))) == 1

    dataset = load(root, tolerance_s=1e-6)
    sources = [picture(k, (48, 64)) for k in range(sum(lengths))]
    for number, item in enumerate(dataset):
        assert int(np.argmax([psnr(pixels(item[key]), one) for one in sources])) == number


def test_a_new_video_file_begins_at_the_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_writer, "VIDEO_FILE_MB", 1)
    episodes = [Episode(20, 20 * k) for k in range(5)]
    of = schema(30, {"front": (96, 128), "wrist": (16, 16)})
    root = make(tmp_path, episodes, of, VideoSettings("h264", 5, "ultrafast", 2), noise)
    files = sorted((root / "videos/observation.images.front").rglob("*.mp4"))
    assert [path.name for path in files] == ["file-000.mp4", "file-001.mp4", "file-002.mp4"]
    assert all(path.stat().st_size < 1024**2 for path in files)
    assert len(list((root / "videos/observation.images.wrist").rglob("*.mp4"))) == 1
    sources = [noise(number, (96, 128)) for number in range(100)]
    for number, item in enumerate(load(root)):
        got = pixels(item["observation.images.front"])
        assert int(np.argmax([psnr(got, source) for source in sources])) == number


def test_files_are_numbered_on_through_the_chunks(tmp_path, monkeypatch):
    for limit, value in {
        "data_files_size_in_mb": 0,
        "video_files_size_in_mb": 0,
        "chunks_size": 3,
    }.items():
        monkeypatch.setattr(Metadata, limit, value)
    root = make(tmp_path)
    places = [
        "chunk-000/file-000",
        "chunk-000/file-001",
        "chunk-000/file-002",
        "chunk-001/file-000",
    ]
    for folder in ("data", "videos/observation.images.front", "videos/observation.images.wrist"):
        files = [path for path in (root / folder).rglob("*") if path.is_file()]
        found = sorted(path.relative_to(root / folder).with_suffix("").as_posix() for path in files)
        assert found == places
    for number, item in enumerate(load(root)):
        assert item["index"] == number
        assert psnr(pixels(item["observation.images.wrist"]), picture(number, (48, 64))) > 33


def test_a_file_is_never_longer_than_lerobot_can_tell_times_apart(tmp_path):
    episodes = [Episode(500, 500 * k) for k in range(3)]
    key = "observation.images.side"
    root = make(tmp_path, episodes, schema(1, {"side": (16, 16)}))
    table = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    assert table[f"videos/{key}/file_index"].tolist() == [0, 0, 1]
    assert table[f"videos/{key}/from_timestamp"].tolist() == [0, 500, 0]
    dataset = load(root)
    for number in (0, 499, 500, 999, 1000, 1499):
        assert psnr(pixels(dataset[number][key]), picture(number, (16, 16))) > 30


def test_statistics_are_those_of_the_raw_frames(tmp_path):
    stats = load(make(tmp_path)).meta.stats
    numbers = [number for episode in EPISODES for number in episode.numbers]
    raw = {
        "observation.state": np.concatenate([episode.state for episode in EPISODES]),
        "action": np.concatenate([episode.action for episode in EPISODES]),
        **{
            f"observation.images.{camera}": np.array(
                [picture(number, size) for number in numbers]
            ).reshape(-1, 3)
            / 255
            for camera, size in CAMERAS.items()
        },
    }
    for key, values in raw.items():
        shape = (3, 1, 1) if "images" in key else (values.shape[1],)
        for name, expected in {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
        }.items():
            np.testing.assert_allclose(
                stats[key][name], expected.reshape(shape), rtol=1e-5, atol=1e-6, err_msg=key
            )
        assert stats[key]["count"].tolist() == [len(values)]
        for quantile in ("q01", "q10", "q50", "q90", "q99"):
            assert stats[key][quantile].shape == shape
            assert (stats[key]["min"] - 1e-9 <= stats[key][quantile]).all()
            assert (stats[key][quantile] <= stats[key]["max"] + 1e-9).all()


def test_quantiles_of_one_episode_are_its_own(tmp_path):
    episode = Episode(80)
    stats = load(make(tmp_path, [episode])).meta.stats
    for key, values in (("observation.state", episode.state), ("action", episode.action)):
        step = (values.max(axis=0) - values.min(axis=0)) / 5000  # of LeRobot's histogram
        for percent in (1, 10, 50, 90, 99):
            expected = np.quantile(values, percent / 100, axis=0, method="inverted_cdf")
            error = np.abs(stats[key][f"q{percent:02d}"] - expected)
            assert (error <= step + 1e-6).all(), (key, percent)


def test_what_became_of_each_episode_is_kept(tmp_path):
    root = make(tmp_path)
    subtasks = pd.read_parquet(root / "meta/subtasks.parquet")
    assert subtasks.index.name == "subtask"
    assert subtasks["subtask_index"].to_dict() == {"reach": 0, "grasp": 1}
    kept = json.loads((root / "meta/conversion.json").read_text(encoding="utf-8"))
    assert kept["contract"] == "sha256:0"
    assert kept["episodes"][1] == {
        "episode_index": 1,
        "task": "挥手",
        "outcome": "failure",
        "length": 1,
        "source": {"bag": "1", "start": 7},
    }
    info = json.loads((root / "meta/info.json").read_text())
    video = info["features"]["observation.images.wrist"]["info"]
    assert (video["video.codec"], video["video.crf"], video["video.g"]) == ("h264", 18, 2)
    assert (video["video.height"], video["video.width"]) == CAMERAS["wrist"]


def test_a_dataset_without_cameras_and_subtasks_is_one_too(tmp_path):
    plain = [replace(episode, subtasks=("",)) for episode in EPISODES]
    root = make(tmp_path, plain, schema(cameras={}))
    dataset = load(root)
    assert [item["index"] for item in dataset] == list(range(23))
    assert {int(item["subtask_index"]) for item in dataset} == {-1}
    assert len(pd.read_parquet(root / "meta/subtasks.parquet")) == 0
    assert not (root / "videos").exists()


def test_shards_stay_and_nothing_else_does(tmp_path):
    make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*")}
    seen: list[int] = []
    shards = sorted((tmp_path / "shards").iterdir())
    write_dataset(tmp_path / "again", shards, schema(), H264, {"contract": "sha256:0"}, seen.append)
    assert seen == [1, 2, 3, 4]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*")}
    assert before == after
    assert dataset_digest(tmp_path / "again") == dataset_digest(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"again", "out", "shards"}


def test_no_shard_makes_no_dataset(tmp_path):
    with pytest.raises(DataError, match="no episode was long enough"):
        write_dataset(tmp_path / "out", [], schema(), H264, {})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: exists already"):
        write_dataset(tmp_path / "out", [], schema(), H264, {})
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("of", "video", "message"),
    [
        (schema(fps=20), H264, "1: made with fps 20 instead of 30"),
        (schema(cameras={"front": (64, 96)}), H264, "1: made with cameras {'front'.*instead of"),
        (schema(), replace(H264, crf=30), "1: made with video .*30.* instead of .*18"),
    ],
)
def test_shards_of_different_settings_are_not_mixed(tmp_path, of, video, message):
    shards = [
        write_shard(tmp_path / "shards/0", Episode(2)),
        write_shard(tmp_path / "shards/1", Episode(2), of, video),
    ]
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "out", shards, schema(), H264, {})
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def swap(path: Path) -> None:
    other = write_shard(path.parent.parent / "longer", Episode(5))
    shutil.copy(other / path.name, path)


@pytest.mark.parametrize("damage", [cut, swap, Path.unlink])
def test_a_damaged_video_ends_the_dataset_not_the_shards(tmp_path, damage):
    shards = [write_shard(tmp_path / "shards" / str(k), Episode(4)) for k in range(2)]
    damage(shards[1] / "wrist.mp4")
    with pytest.raises(DataError, match=r"wrist\.mp4") as error:
        write_dataset(tmp_path / "out", shards, schema(), H264, {})
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert read_shard(shards[0]).length == 4


OTHER_PROCESS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent.parent))
root = Path(sys.argv[2])
import numpy as np
from shard_samples import H264, picture, schema
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.shards import ShardWriter

shards = sorted((root / "shards").iterdir())
write_dataset(root / "elsewhere" / "out", shards, schema(), H264, {"contract": "sha256:0"})
shard = ShardWriter(root / "killed" / "0", schema(cameras={"side": (48, 64)}), H264, 9)
for k in range(9):
    shard.add({"side": picture(k, (48, 64))}, np.zeros(2), np.zeros(3), k, "")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_another_process_makes_the_same_dataset_and_may_be_killed(tmp_path):
    root = make(tmp_path)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    surroundings = {
        **os.environ,
        "PYTHONHASHSEED": "123",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    command = [sys.executable, "-c", OTHER_PROCESS, __file__, str(tmp_path)]
    run = subprocess.run(command, env=surroundings, timeout=100, check=False)
    assert run.returncode == -signal.SIGKILL

    assert dataset_digest(tmp_path / "elsewhere" / "out") == dataset_digest(root)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["out"]
    assert [path for name in ("home", "tmp") for path in (tmp_path / name).rglob("*")] == []

    killed = tmp_path / "killed"
    assert [path.name for path in killed.iterdir()] == ["0.partial"]
    for left in (killed / "0", killed / "0.partial"):
        with pytest.raises(DataError, match="not a whole shard"):
            read_shard(left)
    write_shard(killed / "0", Episode(3))
    assert [path.name for path in killed.iterdir()] == ["0"]
