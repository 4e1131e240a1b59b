# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from loading_samples import CAMERAS, FPS, Sample, colours, make_dataset

from vla_training.data.errors import DataError
from vla_training.data.loading.training_set import TrainingSet, join

LENGTHS = Sample().lengths


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("labelled") / "data", Sample(labels=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One joint, one camera, no column that LeRobot does not ask for; few key frames."""
    sample = Sample(
        lengths=(40, 3), cameras={"front": CAMERAS["front"]}, joints=("pan",), gop=12, plain=True
    )
    return make_dataset(tmp_path_factory.mktemp("plain") / "data", sample)


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """No camera, and an episode whose frames 4 and 5 come late, each for itself."""
    sample = Sample(lengths=(9, 4), cameras={}, late=[(0, 4), (0, 5)])
    return make_dataset(tmp_path_factory.mktemp("blind") / "data", sample)


def lerobot(root: Path, chunk: int) -> LeRobotDataset:
    return LeRobotDataset(
        "local/sample",
        root=root,
        delta_timestamps={"action": [k / FPS for k in range(chunk)]},
        video_backend="pyav",
        return_uint8=True,
    )


@pytest.mark.parametrize("chunk", [1, 4, 20])
def test_every_field_of_every_item_is_what_lerobot_reads(labelled, chunk):
    items, reference = TrainingSet(labelled, chunk), lerobot(labelled, chunk)
    assert len(items) == len(reference) == sum(LENGTHS)
    for item, other in zip(items, reference, strict=True):
        for camera in CAMERAS:
            assert torch.equal(item.images[camera], other[f"observation.images.{camera}"])
        assert torch.equal(item.state, other["observation.state"])
        assert torch.equal(item.actions, other["action"])
        assert torch.equal(item.action_is_pad, other["action_is_pad"])
        assert item.actions.dtype == item.state.dtype == torch.float32
        assert (item.task, item.subtask) == (other["task"], other["subtask"])
        for ours, theirs in (("return_to_go", "return"), ("advantage", "advantage")):
            assert getattr(item, ours) == pytest.approx(other[theirs].item(), abs=0, nan_ok=True)
        for name in ("positive", "outcome", "episode_index", "frame_index"):
            assert getattr(item, name) == other[name].item()


def test_pictures_are_those_that_were_written(labelled):
    for item in TrainingSet(labelled, 1):
        for place, (camera, size) in enumerate(CAMERAS.items()):
            written = colours(item.episode_index, item.frame_index + 3 * place, *size)
            error = item.images[camera].permute(1, 2, 0).numpy().astype(float) - written
            assert 10 * math.log10(255**2 / (error**2).mean()) > 30.0


def test_pictures_far_from_a_key_frame_are_read_in_any_order(plain):
    items, reference = TrainingSet(plain, 2), lerobot(plain, 2)
    for index in [*np.random.default_rng(0).permutation(43).tolist(), 42, 42, 0]:
        expected = reference[index]
        assert torch.equal(items[index].images["front"], expected["observation.images.front"])
        assert torch.equal(items[index].state.squeeze(), expected["observation.state"].squeeze())


def test_columns_that_a_dataset_lacks_are_marked_as_unknown(plain):
    item = TrainingSet(plain, 2)[0]
    assert item.subtask == ""
    assert math.isnan(item.return_to_go)
    assert math.isnan(item.advantage)
    assert (item.positive, item.outcome) == (-1, -1)
    assert item.actions.shape == (2, 1)


def test_a_chunk_ends_before_a_frame_that_comes_late(blind):
    table = pq.read_table(blind / "data/chunk-000/file-000.parquet").to_pydict()
    runs = [range(0, 4), range(4, 5), range(5, 9), range(9, 13)]
    for row, item in enumerate(TrainingSet(blind, 6)):
        run = next(run for run in runs if row in run)
        for k in range(6):
            assert item.action_is_pad[k] == (row + k not in run)
            assert item.actions[k].tolist() == table["action"][min(row + k, run[-1])]


def test_a_dataset_without_pictures_gives_items_without_pictures(blind):
    assert TrainingSet(blind, 3)[2].images == {}


def test_episodes_are_those_asked_for_in_the_order_of_the_dataset(labelled):
    items = TrainingSet(labelled, 4, episodes=[2, 0, 2])
    assert [i.episode_index for i in items] == [0] * 7 + [2] * 12
    whole = TrainingSet(labelled, 4)
    assert torch.equal(items[7].images["wrist"], whole[10].images["wrist"])
    assert torch.equal(items[7].actions, whole[10].actions)


def test_a_stride_takes_every_so_many_frames_of_each_episode(labelled):
    items = TrainingSet(labelled, 4, stride=3)
    expected = [(e, f) for e, length in enumerate(LENGTHS) for f in range(0, length, 3)]
    assert [(i.episode_index, i.frame_index) for i in items] == expected
    assert torch.equal(items[1].actions, TrainingSet(labelled, 4)[3].actions)


def test_cameras_come_in_the_order_asked_for(labelled):
    assert list(TrainingSet(labelled, 1)[0].images) == ["front", "wrist"]
    assert list(TrainingSet(labelled, 1, cameras=["wrist", "front"])[0].images) == [
        "wrist",
        "front",
    ]
    assert TrainingSet(labelled, 1, cameras=[])[0].images == {}


def test_frames_without_a_required_label_are_left_out(labelled):
    items = TrainingSet(labelled, 1, require=["return", "positive"])
    assert {i.episode_index for i in items} == {0, 1, 3, 4}
    assert all(i.subtask for i in TrainingSet(labelled, 1, require=["subtask"]))


@pytest.mark.parametrize(
    ("column", "command"),
    [("return", "vla-label"), ("advantage", "vla-label"), ("subtask", "vla-convert")],
)
def test_a_required_column_that_is_missing_is_an_error_with_the_command_that_makes_it(
    plain, column, command
):
    with pytest.raises(DataError, match=f"no column {column}; {command}"):
        TrainingSet(plain, 1, require=[column])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": [0, 5]}, "episode 5 is not in"),
        ({"episodes": [-1]}, "episode -1 is not in"),
        ({"episodes": []}, "no episode"),
        ({"cameras": ["side"]}, "no camera 'side', only front, wrist"),
        ({"chunk": 0}, "chunk is 0"),
        ({"stride": 0}, "stride 0"),
        ({"require": ["colour"]}, "'colour' cannot be required"),
        ({"require": ["return"], "episodes": [2]}, "no frame with return"),
    ],
)
def test_what_cannot_be_met_is_refused(labelled, arguments, message):
    with pytest.raises(DataError, match=message):
        TrainingSet(labelled, **({"chunk": 1} | arguments))


def test_a_folder_that_is_no_dataset_is_refused_and_left_alone(tmp_path):
    with pytest.raises(DataError, match="no LeRobot dataset"):
        TrainingSet(tmp_path / "nothing", 1)
    assert not (tmp_path / "nothing").exists()


def copied(root: Path, to: Path) -> Path:
    for path in root.rglob("*"):
        if path.is_file():
            (to / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(root)).write_bytes(path.read_bytes())
    return to


def test_a_missing_video_is_an_error_and_never_a_black_picture(labelled, tmp_path):
    root = copied(labelled, tmp_path)
    video = next(root.glob("videos/*wrist/*/*.mp4"))
    video.unlink()
    with pytest.raises(DataError, match=r"wrist.*file-000.mp4 is missing"):
        TrainingSet(root, 1)
    assert TrainingSet(root, 1, cameras=["front"])[0].images.keys() == {"front"}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_video_cut_short_is_an_error_with_its_name(plain, tmp_path, share):
    root = copied(plain, tmp_path)
    video = next(root.glob("videos/*/*/*.mp4"))
    video.write_bytes(video.read_bytes()[: int(share * video.stat().st_size)])
    items = TrainingSet(root, 1)
    with pytest.raises(DataError, match=r"file-000.mp4"):
        for _ in items:
            pass


def test_a_video_path_that_leaves_the_dataset_is_refused(labelled, tmp_path):
    video_path = json.loads((labelled / "meta/info.json").read_text())["video_path"]
    root = change_info(copied(labelled, tmp_path / "data"), video_path=f"../{video_path}")
    copied(labelled / "videos", tmp_path / "videos")
    with pytest.raises(DataError, match="outside the dataset"):
        TrainingSet(root, 1)


def change(root: Path, name: str, rows: Callable[[list[Any]], Any]) -> Path:
    """Replaces a column of the only file of data."""
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    values = pa.array(rows(table[name].to_pylist()))
    pq.write_table(table.set_column(table.column_names.index(name), name, values), file)
    return root


def change_info(root: Path, **entries: object) -> Path:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return root


def features_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/info.json").read_text())["features"]


@pytest.mark.parametrize("column", ["observation.state", "action"])
def test_a_value_that_is_not_finite_is_named_with_its_frame(blind, tmp_path, column):
    root = change(
        copied(blind, tmp_path), column, lambda rows: [*rows[:10], [0, math.inf, 0], *rows[11:]]
    )
    with pytest.raises(DataError, match=f"{column} is not finite in frame 1 of episode 1"):
        TrainingSet(root, 1)
    assert len(TrainingSet(root, 1, episodes=[0])) == 9


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("outcome", lambda rows: ["success"] * len(rows), "column outcome: .*success"),
        ("bag_time_ns", lambda rows: [t / 1e9 for t in rows], "column bag_time_ns: Float"),
        ("bag_time_ns", lambda rows: [None, *rows[1:]], "column bag_time_ns has gaps"),
        ("subtask", lambda rows: [3] * len(rows), "subtask is int64, expected texts"),
        ("task_index", lambda rows: [7] * len(rows), "task_index holds 7, .* 2 tasks"),
        ("task_index", lambda rows: [-1] * len(rows), "task_index holds -1"),
        # As many numbers as ever, which all would stand in the wrong row.
        ("action", lambda rows: [rows[0][:2], [*rows[1], 0.0], *rows[2:]], r"action .*\[2, 4, 3\]"),
        ("action", lambda rows: [None, *rows[1:]], r"action .*\[None, 3\] values, expected 3"),
        ("action", lambda rows: [row[0] for row in rows], "action has single numbers, expected 3"),
        ("observation.state", lambda rows: [["a"] * 3] * len(rows), "observation.state: .*'a'"),
    ],
)
def test_columns_that_hold_something_else_are_named(blind, tmp_path, name, rows, message):
    root = change(copied(blind, tmp_path), name, rows)
    with pytest.raises(DataError, match=message):
        TrainingSet(root, 1)


def test_gaps_in_labels_are_frames_without_labels(blind, tmp_path):
    root = copied(blind, tmp_path)
    for name in ("outcome", "subtask"):
        change(root, name, lambda rows: [None] * len(rows))
    assert {(i.outcome, i.subtask) for i in TrainingSet(root, 1)} == {(-1, "")}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"fps": 0}, "fps 0, expected"),
        ({"fps": "10"}, "fps '10', expected"),
        ({"video_path": None}, "video_path None, expected"),
        ({"video_path": "{episode_chunk}/a.mp4"}, "video_path .*episode_chunk.*, expected"),
        ({"features": {"action": 3}}, "'action' as 3, expected a dtype"),
        ({"features": []}, r"features \[\], expected an object"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(plain, tmp_path, entries, message):
    root = change_info(copied(plain, tmp_path), **entries)
    with pytest.raises(DataError, match=message):
        TrainingSet(root, 1)


def test_a_camera_of_another_name_is_not_left_out_in_silence(labelled, tmp_path):
    features = features_of(labelled)
    features["observation.image"] = features.pop("observation.images.front")
    root = change_info(copied(labelled, tmp_path), features=features)
    with pytest.raises(DataError, match=r"'observation.image' holds pictures"):
        TrainingSet(root, 1)
    assert TrainingSet(root, 1, cameras=["wrist"])[0].images.keys() == {"wrist"}


def test_tasks_that_are_no_texts_are_refused(blind, tmp_path):
    root = copied(blind, tmp_path)
    path = root / "meta/tasks.parquet"
    pd.read_parquet(path).reset_index().to_parquet(path)
    with pytest.raises(DataError, match=r"tasks.parquet is indexed by int64, expected .* texts"):
        TrainingSet(root, 1)


def test_frames_that_are_missing_from_the_table_are_an_error(blind, tmp_path):
    root = copied(blind, tmp_path)
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 3), file)
    with pytest.raises(DataError, match="does not hold every episode"):
        TrainingSet(root, 1)


def test_a_pickled_set_reads_the_same(labelled):
    items = TrainingSet(labelled, 4)
    item = items[8]
    other = pickle.loads(pickle.dumps(items))[8]
    assert torch.equal(item.images["front"], other.images["front"])
    assert torch.equal(item.actions, other.actions)


def test_no_more_videos_stay_open_than_asked_for(tmp_path):
    root = make_dataset(
        tmp_path / "data", Sample(lengths=(4, 4, 4), plain=True, file_megabytes=0.001)
    )
    items = TrainingSet(root, 1, open_videos=2)
    assert len({clip.path for clips in items.clips.values() for clip in clips.values()}) == 6
    reference = lerobot(root, 1)
    for index in np.random.default_rng(0).permutation(12).tolist():
        for camera in CAMERAS:
            expected = reference[index][f"observation.images.{camera}"]
            assert torch.equal(items[index].images[camera], expected)
        assert len(open_files(root)) <= 2


def open_files(root: Path) -> list[str]:
    """What this process has open below a folder."""
    paths = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing is gone by now
            paths.append(str(link.readlink()))
    return [path for path in paths if path.startswith(str(root))]


def test_joined_sets_follow_each_other(labelled):
    one, other = (TrainingSet(labelled, 4, episodes=[e]) for e in (2, 0))
    joined = join([one, other])
    assert len(joined) == 19
    assert torch.equal(joined[12].actions, other[0].actions)


@pytest.mark.parametrize(
    ("sample", "chunk", "message"),
    [
        (Sample(lengths=(3,), cameras={}, fps=20), 4, "fps: 10 in .* 20 in"),
        (Sample(lengths=(3,), cameras={}, joints=("lift", "pan", "grip")), 4, "states: "),
        (Sample(lengths=(3,), cameras={}), 5, "chunk: 4 in .* 5 in"),
        (Sample(lengths=(3,), cameras={"front": (32, 32)}), 4, "camera front has .*32"),
    ],
)
def test_sets_that_do_not_fit_are_not_joined(labelled, tmp_path, sample, chunk, message):
    other = make_dataset(tmp_path / "other", sample)
    with pytest.raises(DataError, match=message):
        join([TrainingSet(labelled, 4), TrainingSet(other, chunk)])
