# SPDX-License-Identifier: Apache-2.0
"""vla-label on datasets that LeRobot wrote, read back by LeRobot."""

import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from test_labels import Episodes, looped_advantages, looped_indicators, looped_returns

from vla_training.data.labels import replacement
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.label import label, main

LENGTHS = [5, 9, 3, 7, 4, 6]
TASKS = ["stack the cups", "wipe the table", "stack the cups", "stack the cups", *["wipe"] * 2]
OUTCOMES = [1, 1, 0, 1, 0, 1]
CAMERA = "observation.images.front"
FEATURES = {
    "action": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
    CAMERA: {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    "subtask": {"dtype": "string", "shape": (1,), "names": None},
    "outcome": {"dtype": "int64", "shape": (1,), "names": None},
    "value": {"dtype": "float32", "shape": (1,), "names": None},
    "person": {"dtype": "bool", "shape": (1,), "names": None},
}
KINDS = [TASKS.index(task) for task in TASKS]
EPISODES = Episodes(LENGTHS, KINDS, [outcome == 0 for outcome in OUTCOMES])
FRAME_TASKS = np.repeat(KINDS, LENGTHS).tolist()
_RNG = np.random.default_rng(3)
VALUES = _RNG.uniform(-1, 0, sum(LENGTHS)).astype(np.float32)
PERSON = _RNG.random(sum(LENGTHS)) < 0.2


def write_dataset(root: Path) -> Path:
    """In two sittings, which gives two files of data and two of episodes."""
    dataset = LeRobotDataset.create(
        "a/b", 10, FEATURES, root=root, rgb_encoder=RGBEncoderConfig(vcodec="h264")
    )
    frame = 0
    for episode, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
        if episode == 4:
            dataset.finalize()
            dataset = LeRobotDataset.resume(
                "a/b", root=root, rgb_encoder=RGBEncoderConfig(vcodec="h264")
            )
        for t in range(length):
            values = {
                "action": np.array([frame, t], np.float32),
                CAMERA: np.full((64, 64, 3), 5 * frame, np.uint8),
                "subtask": f"step {t}",
                "outcome": np.array([OUTCOMES[episode]]),
                "value": VALUES[frame : frame + 1],
                "person": PERSON[frame : frame + 1],
            }
            dataset.add_frame({**values, "task": task})
            frame += 1
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("labels") / "set")
    digest = {"contract_digest": "ab" * 32}
    (root / "meta/conversion.json").write_text(json.dumps(digest))
    return root


@pytest.fixture
def dataset(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data" / "set"))


def opened(root: Path) -> LeRobotDataset:
    return LeRobotDataset("a/b", root=root, video_backend="pyav")


def tables(root: Path) -> dict[Path, pd.DataFrame]:
    return {path: pd.read_parquet(path) for path in sorted((root / "data").glob("*/*.parquet"))}


def column(root: Path, name: str) -> np.ndarray:
    return np.concatenate([table[name].to_numpy(float) for table in tables(root).values()])


def columns(root: Path) -> set[str]:
    """Those that the files hold; ``info.json`` describes the same and the videos."""
    held = {name for table in tables(root).values() for name in table}
    assert held | {CAMERA} == described(root).keys()
    return held


def described(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/info.json").read_text())["features"]


def describe(root: Path, features: dict[str, Any]) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "features": features}))


def put(root: Path, name: str, change: Any) -> None:
    """Changes a column of the dataset's files, or adds one."""
    start = 0
    for path, table in tables(root).items():
        before = table[name].to_numpy(copy=True) if name in table else np.zeros(len(table))
        table[name] = change(before, start)
        start += len(table)
        table.to_parquet(path, index=False)


def drop(root: Path, name: str) -> None:
    """Removes a column as another program would."""
    for path, table in tables(root).items():
        table.drop(columns=name).to_parquet(path, index=False)
    describe(root, {key: value for key, value in described(root).items() if key != name})


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_returns_are_read_by_lerobot(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(dataset)]) == 0
    assert "34 frames labelled" in capsys.readouterr().out
    loaded = opened(dataset)
    expected = looped_returns(EPISODES, "per_task")
    for frame in (0, 13, 14, 33):
        item = loaded[frame]
        assert item["return"].dtype.is_floating_point
        assert float(item["return"]) == pytest.approx(expected[frame], abs=1e-6)
        assert float(item[CAMERA].mean() * 255) == pytest.approx(5 * frame, abs=4)
        assert item["task"] == np.repeat(TASKS, LENGTHS)[frame]
        assert item["subtask"].startswith("step")
    read = [float(item) for item in loaded.hf_dataset["return"]]
    np.testing.assert_allclose(read, expected, atol=1e-6)
    assert loaded.features["return"] == {"dtype": "float32", "shape": (1,), "names": None}
    assert not (columns(dataset) & {"advantage", "positive"})


@pytest.mark.parametrize(
    ("arguments", "mode", "settings"),
    [
        (["--coefficient", "0.5"], "per_task", {"coefficient": 0.5}),
        (["--mode", "global", "--max-steps", "4"], "global", {"max_steps": 4}),
        (["--mode", "per_episode"], "per_episode", {}),
    ],
)
def test_returns_of_other_settings(
    dataset: Path, arguments: list[str], mode: str, settings: dict[str, Any]
) -> None:
    assert main([str(dataset), *arguments]) == 0
    expected = looped_returns(EPISODES, mode, **settings)
    np.testing.assert_allclose(column(dataset, "return"), expected, atol=1e-6)


def test_values_give_advantages_and_indicators(dataset: Path) -> None:
    arguments = ["--values", "value", "--corrected", "person", "--horizon", "3"]
    assert main([str(dataset), *arguments, "--quantile", "0.6"]) == 0
    y = looped_returns(EPISODES, "per_task")
    advantages = looped_advantages(y, VALUES.astype(float).tolist(), LENGTHS, 3)
    positive = looped_indicators(advantages, FRAME_TASKS, PERSON.tolist(), 0.6)
    np.testing.assert_allclose(column(dataset, "advantage"), advantages, atol=1e-6)
    np.testing.assert_array_equal(column(dataset, "positive"), positive)
    assert PERSON.any()
    assert np.all(column(dataset, "positive")[PERSON] == 1)


def test_statistics_follow_from_the_columns(dataset: Path, template: Path) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    stats = opened(dataset).meta.stats
    before = json.loads((template / "meta/stats.json").read_text())
    assert stats.keys() == before.keys() | {"return", "subtask_return", "advantage", "positive"}
    np.testing.assert_array_equal(stats["action"]["mean"], before["action"]["mean"])
    for name in ("return", "advantage", "positive"):
        values = column(dataset, name)
        assert stats[name]["count"].tolist() == [len(values)]
        assert stats[name]["min"] == pytest.approx([values.min()])
        assert stats[name]["max"] == pytest.approx([values.max()])
        assert stats[name]["mean"] == pytest.approx([values.mean()])
        assert stats[name]["std"] == pytest.approx([values.std()])
        # LeRobot's quantiles of a dataset are means over its episodes.
        parts = np.split(values, np.cumsum(LENGTHS)[:-1])
        tenths = [np.sort(part)[max(math.ceil(0.1 * len(part)), 1) - 1] for part in parts]
        assert stats[name]["q10"] == pytest.approx([np.dot(tenths, LENGTHS) / len(values)])


def test_statistics_of_episodes_have_the_form_of_lerobots(dataset: Path) -> None:
    assert main([str(dataset)]) == 0
    files = sorted((dataset / "meta/episodes").glob("*/*.parquet"))
    assert len(files) == 2
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    values = np.split(column(dataset, "return").astype(np.float32), np.cumsum(LENGTHS)[:-1])
    for row, part in zip(rows, values, strict=True):
        theirs = compute_episode_stats({"return": part}, {"return": {"dtype": "float32"}})["return"]
        ours = {k.rpartition("/")[2]: v for k, v in row.items() if k.startswith("stats/return/")}
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value.tolist(), abs=2e-4)  # of a histogram's bins
        assert {k.split("/")[1] for k in row if k.startswith("stats/")} >= {"action", CAMERA}


def test_settings_and_the_digest_of_the_contract_are_kept(dataset: Path) -> None:
    assert main([str(dataset), "--values", "value", "--horizon", "7"]) == 0
    record = json.loads((dataset / "meta/labels.json").read_text())
    assert record["settings"] == {
        "mode": "per_task",
        "coefficient": 1.0,
        "max_steps": 500,
        "horizon": 7,
        "quantile": 0.7,
        "values": "value",
        "corrected": None,
        "beta": None,
        "max_weight": 20.0,
        "unknown": "refuse",
        "value_checkpoint": None,
    }
    assert record["columns"] == ["return", "subtask_return", "advantage", "positive"]
    assert record["contract_digest"] == "ab" * 32


def test_everything_else_stays_as_it_was(dataset: Path, template: Path) -> None:
    videos = {p: p.stat().st_ino for p in dataset.rglob("*.mp4")}
    (dataset / "notes.txt").write_text("mine")
    assert main([str(dataset)]) == 0
    assert {p: p.stat().st_ino for p in dataset.rglob("*.mp4")} == videos  # not even copied
    assert (dataset / "notes.txt").read_text() == "mine"
    before, after = contents(template), contents(dataset)
    assert before.keys() | {"notes.txt", "meta/labels.json"} == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert all(
        n.startswith(("data/", "meta/episodes/", "meta/info", "meta/stats")) for n in changed
    )
    for name in (n for n in before if n.startswith("data/")):
        old, new = pq.ParquetFile(template / name), pq.ParquetFile(dataset / name)
        assert old.num_row_groups == new.num_row_groups
        assert new.read().drop_columns(["return", "subtask_return"]).equals(old.read())
    assert [path.name for path in dataset.parent.iterdir()] == ["set"]


def test_files_say_what_they_hold_without_lerobot(dataset: Path) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    files = [str(path) for path in sorted((dataset / "data").glob("*/*.parquet"))]
    loaded = datasets.Dataset.from_parquet(files)
    assert loaded.features["return"].dtype == "float32"
    assert loaded.features["positive"].dtype == "int64"
    episodes = [str(path) for path in sorted((dataset / "meta/episodes").glob("*/*.parquet"))]
    assert "stats/return/mean" in datasets.Dataset.from_parquet(episodes).features


def test_the_same_labels_again_change_nothing(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    before = contents(dataset)
    assert main([str(dataset), "--values", "value"]) == 0
    assert "has these labels already" in capsys.readouterr().out
    assert contents(dataset) == before


def test_other_labels_are_refused_unless_they_may_replace(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    before = contents(dataset)
    text = refusal(capsys, dataset, "--mode", "global", "--values", "value")
    assert "mode per_task there, global asked for" in text
    assert contents(dataset) == before
    assert main([str(dataset), "--mode", "global", "--max-steps", "9", "--replace"]) == 0
    expected = looped_returns(EPISODES, "global", max_steps=9)
    np.testing.assert_allclose(column(dataset, "return"), expected, atol=1e-6)
    # Advantages of other returns would be wrong.
    assert not (columns(dataset) & {"advantage", "positive"})
    assert "advantage" not in json.loads((dataset / "meta/stats.json").read_text())
    assert (
        "stats/advantage/mean"
        not in pq.read_schema(dataset / "meta/episodes/chunk-000/file-000.parquet").names
    )


def test_labels_of_data_that_changed_are_not_taken_for_current(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    put(dataset, "value", lambda values, _: values / 2)
    assert "made from other" in refusal(capsys, dataset, "--values", "value")
    assert main([str(dataset), "--values", "value", "--replace"]) == 0
    y = looped_returns(EPISODES, "per_task")
    expected = looped_advantages(y, (VALUES.astype(float) / 2).tolist(), LENGTHS, 50)
    np.testing.assert_allclose(column(dataset, "advantage"), expected, atol=1e-6)


def test_a_column_of_somebody_else_is_not_overwritten(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(dataset, "return", lambda values, _: values + 7)
    theirs = {"dtype": "float64", "shape": [1], "names": None}
    describe(dataset, {**described(dataset), "return": theirs})
    assert "column return that vla-label did not make" in refusal(capsys, dataset)
    assert np.all(column(dataset, "return") == 7)
    assert main([str(dataset), "--replace"]) == 0
    np.testing.assert_allclose(
        column(dataset, "return"), looped_returns(EPISODES, "per_task"), atol=1e-6
    )


def test_labels_that_are_gone_are_not_taken_for_there(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset), "--values", "value"]) == 0
    drop(dataset, "return")
    assert "column return is gone" in refusal(capsys, dataset, "--values", "value")
    assert main([str(dataset), "--replace"]) == 0
    assert columns(dataset) >= {"return"}
    assert not (columns(dataset) & {"advantage", "positive"})


def test_a_record_cannot_name_columns_that_are_no_labels(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"settings": {}, "columns": ["return", "action"], "inputs": ""}
    (dataset / "meta/labels.json").write_text(json.dumps(record))
    before = contents(dataset)
    assert "no record of labels" in refusal(capsys, dataset, "--replace")
    assert contents(dataset) == before


def test_a_dataset_without_outcomes_needs_to_be_told(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drop(dataset, "outcome")
    text = refusal(capsys, dataset)
    assert "outcome of 6 of 6 episodes is unknown (0, 1, 2, 3, 4, 5)" in text
    assert "--unknown" in text
    assert "none is left" in refusal(capsys, dataset, "--unknown", "skip")
    assert main([str(dataset), "--unknown", "success"]) == 0
    lucky = EPISODES._replace(failed=[False] * 6)
    np.testing.assert_allclose(
        column(dataset, "return"), looped_returns(lucky, "per_task"), atol=1e-6
    )
    # This mode asks for no outcome.
    assert main([str(dataset), "--mode", "per_episode", "--replace"]) == 0


def make_unknown(root: Path, *episodes: int) -> None:
    episode_of = np.repeat(np.arange(6), LENGTHS)
    put(
        root,
        "outcome",
        lambda values, start: np.where(
            np.isin(episode_of[start : start + len(values)], episodes), -1, values
        ),
    )


def test_unknown_outcomes_can_count_as_failures(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_unknown(dataset, 0, 5)
    assert "2 of 6 episodes is unknown (0, 5)" in refusal(capsys, dataset)
    assert main([str(dataset), "--unknown", "failure"]) == 0
    gloomy = EPISODES._replace(failed=[True, False, True, False, True, True])
    np.testing.assert_allclose(
        column(dataset, "return"), looped_returns(gloomy, "per_task"), atol=1e-6
    )


def test_unknown_outcomes_can_be_left_out(dataset: Path) -> None:
    make_unknown(dataset, 1, 3)
    # A frame without a label needs no value.
    put(
        dataset,
        "value",
        lambda values, start: values if start else np.r_[values[:5], [np.nan], values[6:]],
    )
    assert main([str(dataset), "--values", "value", "--unknown", "skip"]) == 0
    kept = np.isin(np.repeat(np.arange(6), LENGTHS), [0, 2, 4, 5])
    rest = Episodes(*([items[e] for e in (0, 2, 4, 5)] for items in EPISODES))
    y = looped_returns(rest, "per_task")
    a = looped_advantages(y, VALUES[kept].astype(float).tolist(), rest.lengths, 50)
    tasks = np.repeat(rest.tasks, rest.lengths).tolist()
    np.testing.assert_allclose(column(dataset, "return")[kept], y, atol=1e-6)
    np.testing.assert_allclose(column(dataset, "advantage")[kept], a, atol=1e-6)
    assert np.isnan(column(dataset, "return")[~kept]).all()
    assert np.isnan(column(dataset, "advantage")[~kept]).all()
    positive = column(dataset, "positive")
    np.testing.assert_array_equal(
        positive[kept], looped_indicators(a, tasks, [False] * len(y), 0.7)
    )
    assert np.all(positive[~kept] == -1)
    stats = opened(dataset).meta.stats["return"]
    assert stats["count"].tolist() == [kept.sum()]
    assert stats["min"] == pytest.approx([min(y)])


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        (("value", lambda v, s: np.where(np.arange(len(v)) == 6, np.nan, v) if s == 0 else v),
         ["--values", "value"], "value is nan in episode 1"),
        (("outcome", lambda v, _: np.where(np.arange(len(v)) == 6, 0, v)), [], "within episode 1"),
        (("outcome", lambda v, _: v + 4), [], "outcome holds 5"),
        (("task_index", lambda v, _: np.where(np.arange(len(v)) == 6, 0, v)), [],
         "task_index changes within episode 1"),
        (("frame_index", lambda v, _: np.roll(v, 1)), [], "frame by frame"),
        (("episode_index", lambda v, _: v + 1), [], "6 episodes"),
        (("value", lambda v, _: v), ["--values", "valeu"], "no column 'valeu'"),
        (("value", lambda v, _: v), ["--values", "action"], "action is float32 [2]"),
        (("value", lambda v, _: v), ["--values", "subtask"], "subtask is string"),
        (("value", lambda v, _: v), ["--values", CAMERA], "is video"),
        (("value", lambda v, _: v), ["--values", "return"], "return is a label"),
        (("value", lambda v, _: v), ["--corrected", "person"], "--values"),
        (("value", lambda v, _: v), ["--values", "value", "--corrected", "value"], "0 and 1"),
        (("value", lambda v, _: v), ["--coefficient", "0"], "2 episodes failed"),
        (("value", lambda v, _: v), ["--values", "value", "--quantile", "1.5"], "quantile is 1.5"),
        (("value", lambda v, _: v), ["--values", "value", "--horizon", "0"], "horizon is 0"),
        (("outcome", lambda v, _: [None, *v[1:]]), [], "within episode 0"),
        (("value", lambda v, _: [[x] for x in v]), ["--values", "value"], "value holds list<"),
        (("person", lambda v, _: [None, *v[1:]]), ["--values", "value", "--corrected", "person"],
         "person has gaps"),
    ],
)  # fmt: skip
def test_what_cannot_be_labelled_is_refused_and_left_alone(
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, Any],
    arguments: list[str],
    named: str,
) -> None:
    put(dataset, *change)
    before = contents(dataset)
    assert named in refusal(capsys, dataset, *arguments)
    assert contents(dataset) == before
    assert [path.name for path in dataset.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("meta/info.json", None, "no LeRobot dataset"),
        ("meta/info.json", "{", "cannot be read"),
        ("meta/info.json", "[]", "expected an object"),
        ("meta/info.json", '{"codebase_version": "v3.0", "features": {"outcome": 3}}',
         "'outcome' as 3"),
        ("meta/info.json", '{"codebase_version": "v2.1", "total_episodes": 1, "features": {}}',
         "expected v3.0"),
        ("meta/info.json", '{"codebase_version": "v3.0", "total_episodes": 0, "features": {}}',
         "counts 0 episodes"),
        ("meta/labels.json", "{", "cannot be read"),
        ("meta/labels.json", "[1]", "expected an object"),
        ("meta/labels.json", "{}", "no record of labels"),
        ("meta/stats.json", "{", "set/meta/stats.json cannot be read"),
        ("meta/stats.json", "[]", "expected an object"),
        ("data/chunk-000/file-000.parquet", "PAR1", "cannot be read"),
        ("data/chunk-000/file-001.parquet", None, "6 episodes"),
        ("meta/episodes/chunk-000/file-000.parquet", "PAR1", "is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_dataset_is_named(
    dataset: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | None, named: str
) -> None:
    if content is None:
        (dataset / file).unlink()
    else:
        (dataset / file).write_text(content)
    text = refusal(capsys, dataset)
    assert named in text
    assert str(dataset) in text


def test_a_dataset_of_links_keeps_what_they_point_to(dataset: Path, tmp_path: Path) -> None:
    """As in the cache of a hub: files are links to blobs that other versions share."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([p for p in dataset.rglob("*") if p.is_file()]):
        path.rename(blobs / str(number))
        depth = len(path.relative_to(tmp_path).parts) - 1
        path.symlink_to(Path(*[".."] * depth, "blobs", str(number)))
    before = contents(blobs)
    assert main([str(dataset)]) == 0
    assert contents(blobs) == before
    assert float(opened(dataset)[33][CAMERA].mean() * 255) > 100
    np.testing.assert_allclose(
        column(dataset, "return"), looped_returns(EPISODES, "per_task"), atol=1e-6
    )


def test_two_at_a_time_are_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open(dataset, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert "by another process" in refusal(capsys, dataset)
    finally:
        os.close(descriptor)
    assert main([str(dataset)]) == 0


def test_without_hard_links_files_are_copied(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    assert main([str(dataset)]) == 0
    assert "return" in columns(dataset)


def test_a_full_disk_leaves_the_dataset_as_it_was(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(dataset)
    real = os.replace
    for call in range(7):  # two files of data, two of episodes, info, statistics, record
        calls = iter(range(100))

        def full(source: Path, target: Path, last: int = call, count: Any = calls) -> None:
            if next(count) == last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            real(source, target)

        monkeypatch.setattr(os, "replace", full)
        assert "No space left" in refusal(capsys, dataset)
        assert contents(dataset) == before
        assert [path.name for path in dataset.parent.iterdir()] == ["set"]
    monkeypatch.setattr(os, "replace", real)
    assert main([str(dataset)]) == 0


KILLED = """
import ctypes, errno, json, os, shutil, signal, sys
from pathlib import Path

import pandas  # which the first reading of a table would import, in every child again
from vla_training.data.labels import replacement
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.label import label

os.fsync = lambda _: None


class NoExchange:
    @staticmethod
    def renameat2(*_):
        ctypes.set_errno(errno.ENOSYS)
        return -1


def killed(root, settings, exchange, last):
    calls = iter(range(1000))

    def deadly(function):
        def call(*args, **kwargs):
            if next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    steps = [(os, "rename"), (shutil, "rmtree")]
    if exchange:
        steps += [(shutil, "copytree"), (os, "replace"), (replacement, "_exchange")]
    else:
        replacement._LIBC = NoExchange
    for module, name in steps:
        setattr(module, name, deadly(getattr(module, name)))
    label(root, settings, replace=True)
    os._exit(0)


for template, folder, exchange, settings in json.loads(sys.argv[1]):
    for last in range(1000):
        root = Path(folder, str(last), "set")
        shutil.copytree(template, root)
        child = os.fork()
        if child == 0:
            killed(root, Settings(**settings), exchange, last)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
"""


class Killed(NamedTuple):
    """Copies of a dataset whose labelling was killed, each at another step."""

    before: Path
    exchanging: list[Path]
    renaming: list[Path]


@pytest.fixture(scope="module")
def killed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    labelled = Path(shutil.copytree(template, folder / "labelled" / "set"))
    assert main([str(labelled)]) == 0
    other = {"mode": "global", "max_steps": 9, "values": "value"}
    jobs = [
        (str(labelled), str(folder / "exchanging"), True, other),
        (str(template), str(folder / "renaming"), False, {}),
    ]
    # One interpreter for all, which does nothing but fork.
    subprocess.run([sys.executable, "-c", KILLED, json.dumps(jobs)], check=True, timeout=100)
    roots = [
        [Path(place, str(step), "set") for step in range(len(list(Path(place).iterdir())))]
        for _, place, _, _ in jobs
    ]
    return Killed(labelled, *roots)


def test_killed_anywhere_the_old_or_the_new_dataset_is_there(killed: Killed) -> None:
    versions = [contents(root) for root in killed.exchanging]
    assert versions[0] == contents(killed.before)
    first_new = next(i for i, version in enumerate(versions) if version != versions[0])
    assert first_new > 10
    assert len(versions) > first_new + 2
    assert all(version == versions[0] for version in versions[:first_new])
    assert all(version == versions[-1] for version in versions[first_new:])
    new = killed.exchanging[first_new]
    expected = looped_returns(EPISODES, "global", max_steps=9)
    np.testing.assert_allclose(column(new, "return"), expected, atol=1e-6)
    assert "advantage" in columns(new)
    assert float(opened(new)[33][CAMERA].mean() * 255) > 100
    assert json.loads((new / "meta/labels.json").read_text())["settings"]["mode"] == "global"


def test_after_a_kill_the_next_run_goes_through(killed: Killed) -> None:
    missing = 0
    for root in killed.renaming:
        missing += not root.exists()
        label(root, Settings())
        assert [path.name for path in root.parent.iterdir()] == ["set"]
        assert "return" in described(root)
        assert root.joinpath("meta/labels.json").exists()
    assert missing == 1  # between the two renames


def test_a_mount_point_is_refused(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replacement.Path, "is_mount", lambda _: True)
    assert "mount point" in refusal(capsys, dataset)
