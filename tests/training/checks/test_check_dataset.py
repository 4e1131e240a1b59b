# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bag_samples import sample_contract
from dataset_samples import FPS, LENGTHS, edit_json, edit_table, make_dataset

from vla_nodes.contract import load_contract
from vla_training.data.checks.check import main
from vla_training.data.checks.dataset import check_dataset
from vla_training.data.schema import ACTION, BAG_TIME, STATE

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FRONT = "observation.images.front"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    contract = sample_contract(folder)
    return make_dataset(folder / "dataset", contract), contract


@pytest.fixture
def dataset(good, tmp_path):
    """A copy to damage."""
    return shutil.copytree(good[0], tmp_path / "dataset")


def failures(dataset: Path, contract=None) -> set[tuple[str, str]]:
    _, findings = check_dataset(dataset, contract)
    return {(f.check, f.subject) for f in findings if f.level == "fail"}


def rows(edit: Callable[[pd.DataFrame], object]) -> Callable[[Path], None]:
    return lambda root: edit_table(root / DATA, edit)


def episodes(edit: Callable[[pd.DataFrame], object]) -> Callable[[Path], None]:
    return lambda root: edit_table(root / EPISODES, edit)


def put(column: str, row: int, value: object) -> Callable[[pd.DataFrame], None]:
    def edit(frame: pd.DataFrame) -> None:
        frame.at[row, column] = value

    return edit


def put_in_vector(
    column: str, row: int, place: int, value: float
) -> Callable[[pd.DataFrame], None]:
    def edit(frame: pd.DataFrame) -> None:
        vector = frame.at[row, column].copy()
        vector[place] = value
        frame.at[row, column] = vector

    return edit


def shift_actions(frame: pd.DataFrame) -> None:
    frame[ACTION] = list(np.roll(np.stack(frame[ACTION]), -1, axis=0))


def info(**values: object) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "meta/info.json", **values)


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / name
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    return damage


def zero(name: str, first: float, length: int) -> Callable[[Path], None]:
    """Overwrites bytes in the middle of a file."""

    def damage(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        begin = int(len(data) * first)
        data[begin : begin + length] = bytes(length)
        (root / name).write_bytes(data)

    return damage


def swap_times(frame: pd.DataFrame) -> None:
    """The pictures of the second and third episode change places; both are of one length."""
    for name in ("from", "to"):
        column = f"videos/{FRONT}/{name}_timestamp"
        frame.loc[[1, 2], column] = frame.loc[[2, 1], column].to_numpy()


def reencode(
    root: Path, edit: Callable[[list[np.ndarray]], list[np.ndarray]], rate: int = FPS
) -> None:
    """Writes the front camera's video anew, with other pictures or another rate."""
    file = root / VIDEO
    with av.open(str(file)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in edit(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_good_dataset_passes_every_check(good, tmp_path, capsys):
    root, _ = good
    report = tmp_path / "report.json"
    arguments = ["dataset", str(root), "--contract", str(root.parent / "sample_arm.yaml")]
    assert main([*arguments, "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert {finding["level"] for finding in content["findings"]} == {"ok"}
    checks = {finding["check"] for finding in content["findings"]}
    assert checks == {
        *("file", "counts", "index", "feature", "task", "subtask", "outcome", "bag_time"),
        *("finite", "stats", "jump", "limits", "still", "stuck", "idle", "video", "black"),
        *("duplicate", "frozen", "lerobot"),
    }
    videos = [f for f in content["findings"] if f["check"] == "video"]
    assert [f["measured"] for f in videos] == [sum(LENGTHS)] * 2
    assert "ok: " in capsys.readouterr().out


DAMAGES = {
    # what is done to it: (damage, check, subject of a failure)
    "table missing": (lambda root: (root / DATA).unlink(), "file", DATA),
    "table cut short": (cut(DATA, 0.7), "file", DATA),
    "table nobody claims": (
        lambda root: shutil.copy(root / DATA, root / "data/chunk-000/file-007.parquet"),
        *("file", "data/chunk-000/file-007.parquet"),
    ),
    "column missing": (lambda root: drop_column(root, ACTION), "file", DATA),
    "a vector too short": (
        lambda root: shorten_vector(root, STATE),
        *("file", DATA),
    ),
    "total of frames": (info(total_frames=61), "counts", "total_frames"),
    "total of episodes": (info(total_episodes=2), "counts", "total_episodes"),
    "total of tasks": (info(total_tasks=3), "counts", "total_tasks"),
    "length of an episode": (episodes(put("length", 1, 17)), "counts", "dataset_from_index"),
    "rows of an episode": (
        episodes(put("dataset_from_index", 1, 23)),
        *("counts", "dataset_from_index"),
    ),
    "index": (rows(put("index", 30, 31)), "index", "index"),
    "frame index": (rows(put("frame_index", 30, 0)), "index", "frame_index"),
    "episode index": (rows(put("episode_index", 30, 0)), "index", "episode_index"),
    "timestamp": (rows(put("timestamp", 30, np.float32(0.7))), "index", "timestamp"),
    "task of a row": (rows(put("task_index", 5, 2)), "task", "task_index"),
    "task of an episode": (
        rows(lambda frame: frame.loc.__setitem__((slice(0, 23), "task_index"), 1)),
        *("task", "episode 0"),
    ),
    "subtask of a row": (rows(put("subtask_index", 5, 1)), "subtask", "subtask_index"),
    "subtasks missing": (
        lambda root: (root / "meta/subtasks.parquet").unlink(),
        *("subtask", "subtask_index"),
    ),
    "outcome": (rows(put("outcome", 5, 7)), "outcome", "outcome"),
    "time standing still": (
        rows(lambda frame: frame.at.__setitem__((5, BAG_TIME), frame.at[4, BAG_TIME])),
        *("bag_time", BAG_TIME),
    ),
    "time off the grid": (
        rows(lambda frame: frame.at.__setitem__((5, BAG_TIME), frame.at[5, BAG_TIME] + 2)),
        *("bag_time", BAG_TIME),
    ),
    "frame left out": (
        rows(
            lambda frame: frame.loc.__setitem__(
                (slice(5, 23), BAG_TIME), frame.loc[5:23, BAG_TIME] + 100_000_000
            )
        ),
        *("bag_time", BAG_TIME),
    ),
    "NaN": (rows(put_in_vector(STATE, 5, 1, np.nan)), "finite", STATE),
    "one value": (rows(put_in_vector(ACTION, 5, 1, 0.123)), "stats", f"{ACTION}, episode 0"),
    "actions shifted": (rows(shift_actions), "stats", f"{ACTION}, episode 0"),
    "statistics missing": (
        lambda root: (root / "meta/stats.json").unlink(),
        *("stats", "meta/stats.json"),
    ),
    "quantile": (
        lambda root: edit_json(root / "meta/stats.json", action__q99=[0.5, 0.5, 0.5]),
        *("stats", ACTION),
    ),
    "spread": (
        lambda root: edit_json(root / "meta/stats.json", action__std=[0.5, 0.5, 0.5]),
        *("stats", ACTION),
    ),
    "mean of pictures": (
        lambda root: edit_json(
            root / "meta/stats.json", **{f"{FRONT}__mean": [[[0.2]], [[0.2]], [[0.2]]]}
        ),
        *("stats", FRONT),
    ),
    "video missing": (lambda root: (root / VIDEO).unlink(), "video", VIDEO),
    "video cut short": (cut(VIDEO, 0.6), "video", VIDEO),
    "video damaged": (zero(VIDEO, 0.5, 600), "video", VIDEO),
    "picture missing": (
        lambda root: reencode(root, lambda pictures: pictures[:-1]),
        *("video", VIDEO),
    ),
    "another rate": (
        lambda root: reencode(root, lambda pictures: pictures, rate=9),
        *("video", VIDEO),
    ),
    "another size": (info(**{f"features__{FRONT}__shape": [32, 64, 3]}), "video", VIDEO),
    "episodes' videos swapped": (episodes(swap_times), "video", VIDEO),
    "black pictures": (
        lambda root: reencode(root, lambda pictures: [*pictures[:50], *[pictures[0] * 0] * 10]),
        *("black", FRONT),
    ),
    "version": (info(codebase_version="v2.1"), "file", "dataset"),
    "not JSON": (lambda root: (root / "meta/info.json").write_text("{"), "file", "dataset"),
    "no episodes": (lambda root: (root / EPISODES).unlink(), "file", "dataset"),
    "episodes cut short": (cut(EPISODES, 0.5), "file", "dataset"),
    "data path climbs out": (info(data_path="../outside/{file_index}.parquet"), "file", "dataset"),
    "video path climbs out": (
        info(video_path="videos/../../{video_key}-{file_index:03d}.mp4"),
        *("file", "dataset"),
    ),
    "absolute path": (info(video_path="/etc/{video_key}.mp4"), "file", "dataset"),
    "path that fills memory": (info(data_path="{chunk_index:9999999999d}"), "file", "dataset"),
    "path that looks inside": (info(data_path="{chunk_index.__class__}"), "file", "dataset"),
}


def drop_column(root: Path, column: str) -> None:
    pq.write_table(pq.read_table(root / DATA).drop_columns([column]), root / DATA)


def shorten_vector(root: Path, column: str) -> None:
    """One row loses a value; the column must then be one of lists of any length."""
    table = pq.read_table(root / DATA)
    rows = table.column(column).to_pylist()
    rows[3] = rows[3][:2]
    values = pa.array(rows, pa.list_(pa.float32()))
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, values), root / DATA)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_where_it_is(dataset, name):
    damage, check, subject = DAMAGES[name]
    damage(dataset)
    assert (check, subject) in failures(dataset)


def test_pictures_that_stand_still_while_the_robot_moves_are_warned_of(dataset):
    reencode(dataset, lambda pictures: [*[pictures[0]] * 20, *pictures[20:]])
    _, findings = check_dataset(dataset, None)
    (finding,) = (f for f in findings if (f.check, f.subject) == ("frozen", FRONT))
    assert finding.level == "warn"
    assert "20 pictures in a row are alike" in finding.text
    assert "from episode 0 frame 0" in finding.text


def test_a_path_out_of_the_dataset_is_not_opened(dataset, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(dataset / DATA, outside / "0.parquet")
    edit_json(dataset / "meta/info.json", data_path="../outside/{file_index}.parquet")
    _, (finding,) = check_dataset(dataset, None)
    assert finding.level == "fail"
    assert "leads out of the dataset" in finding.text


def test_links_within_a_dataset_are_followed(dataset, tmp_path):
    """As the cache of the Hugging Face Hub has them."""
    blob = tmp_path / "blob"
    shutil.move(dataset / DATA, blob)
    (dataset / DATA).symlink_to(blob)
    assert not failures(dataset)


def test_frames_left_out_are_allowed_where_the_conversion_says_so(dataset):
    DAMAGES["frame left out"][0](dataset)
    settings = {"settings": {"on_gap": "drop"}}
    (dataset / "meta/conversion.json").write_text(json.dumps(settings))
    assert not failures(dataset)


def test_a_dataset_of_another_origin_is_checked_as_far_as_possible(dataset):
    """Without the columns and tables that only this project writes."""
    own = [BAG_TIME, "outcome", "subtask", "subtask_index"]
    for column in own:
        drop_column(dataset, column)
    features = json.loads((dataset / "meta/info.json").read_text())["features"]
    for column in own:
        del features[column]
    edit_json(dataset / "meta/info.json", features=features)
    (dataset / "meta/subtasks.parquet").unlink()
    _, findings = check_dataset(dataset, None)
    assert {f.level for f in findings} == {"ok", "warn"}
    assert [(f.check, f.subject) for f in findings if f.level == "warn"] == [("bag_time", BAG_TIME)]
    assert [f for f in findings if f.check == "lerobot"]


def test_names_of_another_contract_fail(good, tmp_path):
    root, _ = good
    file = tmp_path / "other.yaml"
    text = (root.parent / "sample_arm.yaml").read_text()
    file.write_text(
        text.replace("[pan, lift, grip]", "[lift, pan, grip]").replace("fps: 10", "fps: 20")
    )
    found = failures(root, load_contract(file))
    assert {("feature", STATE), ("feature", ACTION), ("feature", "fps")} <= found


def test_a_robot_that_jumps_is_found(good, tmp_path):
    root, _ = good
    file = tmp_path / "slow.yaml"
    text = (root.parent / "sample_arm.yaml").read_text()
    file.write_text(text.replace("velocity: 10.0", "velocity: 0.1"))
    assert ("jump", STATE) in failures(root, load_contract(file))


def test_a_folder_that_is_no_dataset_fails(tmp_path):
    assert main(["dataset", str(tmp_path)]) == 1
