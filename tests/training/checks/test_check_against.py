# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_samples import (
    EPOCH,
    MS,
    SECOND,
    STORE,
    Message,
    Recording,
    header,
    position,
    sample_contract,
    sample_messages,
    stamp_of,
    write_bag,
)
from dataset_samples import edit_table, make_dataset

from vla_nodes.contract import load_contract
from vla_training.data.checks.against import compare
from vla_training.data.checks.check import main
from vla_training.data.checks.dataset import check_dataset
from vla_training.data.checks.dataset_columns import read_tables
from vla_training.data.checks.dataset_files import open_dataset
from vla_training.data.conversion.convert import main as convert
from vla_training.data.schema import ACTION, BAG_TIME, STATE

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A dataset of three episodes, its contract, and the three bags that hold the same."""
    folder = tmp_path_factory.mktemp("good")
    contract = sample_contract(folder)
    for episode in range(3):
        recording = Recording(seconds=2.5, start=EPOCH + 60 * SECOND * episode)
        write_bag(folder / f"bags/{episode}", sample_messages(recording))
    return make_dataset(folder / "dataset", contract), contract, folder / "bags"


@pytest.fixture
def dataset(good, tmp_path):
    """A copy to damage."""
    return shutil.copytree(good[0], tmp_path / "dataset")


def compared(root: Path, contract, bags: list[Path]) -> dict:
    """Findings by subject."""
    dataset = open_dataset(root)
    list(read_tables(dataset))
    return {finding.subject: finding for finding in compare(dataset, contract, bags)}


def bags_of(good) -> list[Path]:
    return sorted(good[2].iterdir())


def failing(findings: dict) -> set[str]:
    return {subject for subject, finding in findings.items() if finding.level == "fail"}


def test_a_dataset_of_these_bags_agrees_with_them(good):
    root, contract, _ = good
    findings = compared(root, contract, bags_of(good))
    assert {f.level for f in findings.values()} == {"ok"}
    assert "180 values compared" in findings[STATE].text
    assert "180 values compared" in findings[ACTION].text
    assert "60 pictures compared" in findings[FRONT].text
    assert findings[STATE].measured <= 2**-24  # half a step of float32 below 1


def shift(column: str, frames: int):
    def edit(frame) -> None:
        values = list(frame[column])
        for episode in frame["episode_index"].unique():
            rows = frame.index[frame["episode_index"] == episode]
            for row, source in zip(rows, np.roll(rows, -frames), strict=True):
                values[row] = frame.at[source, column]
        frame[column] = values

    return edit


def nudge(column: str, row: int, by: float):
    def edit(frame) -> None:
        vector = frame.at[row, column].copy()
        vector[1] += by
        frame.at[row, column] = vector

    return edit


def swap_videos(frame) -> None:
    for name in ("from", "to"):
        column = f"videos/{FRONT}/{name}_timestamp"
        frame.loc[[1, 2], column] = frame.loc[[2, 1], column].to_numpy()


def delay_video(frame) -> None:
    """The last episode's video begins a frame early."""
    frame.loc[2, f"videos/{FRONT}/from_timestamp"] -= 0.1


def later(frame) -> None:
    frame[BAG_TIME] += 100 * MS


@pytest.mark.parametrize(
    ("file", "edit", "subjects"),
    [
        (DATA, shift(ACTION, 1), {ACTION}),
        (DATA, shift(STATE, -1), {STATE}),
        (DATA, nudge(ACTION, 30, 1e-5), {ACTION}),
        (DATA, nudge(STATE, 59, -1e-5), {STATE}),
        (DATA, later, {STATE, ACTION, FRONT, WRIST}),
        (EPISODES, swap_videos, {FRONT}),
        (EPISODES, delay_video, {FRONT}),
    ],
    ids=[
        *("actions a frame early", "states a frame late", "one action", "one state"),
        *("all a frame early", "videos swapped", "a video a frame late"),
    ],
)
def test_what_is_not_of_the_bag_is_found(good, dataset, file, edit, subjects):
    edit_table(dataset / file, edit)
    assert failing(compared(dataset, good[1], bags_of(good))) == subjects


def test_bags_of_another_time_are_told(good):
    root, contract, _ = good
    findings = compared(root, contract, bags_of(good)[:2])
    assert failing(findings) == {"episode 2"}
    assert "none of the bags given holds the time" in findings["episode 2"].text


def test_a_dataset_without_times_cannot_be_compared(good, dataset):
    root = dataset
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"][BAG_TIME]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert failing(compared(root, good[1], bags_of(good))) == {BAG_TIME}


def test_a_clock_that_was_set_back_is_told(good, tmp_path):
    root, contract, _ = good
    late = [
        m._replace(value=STORE.types[m.type](
            header(stamp_of(m) - SECOND), *[getattr(m.value, f) for f in
            ("name", "position", "velocity", "effort")]
        ))
        if m.topic == "/joint_states" and stamp_of(m) > EPOCH + 2 * SECOND else m
        for m in sample_messages(Recording(seconds=2.5))
    ]  # fmt: skip
    bags = [write_bag(tmp_path / "0", late), *bags_of(good)[1:]]
    findings = compared(root, contract, bags)
    assert failing(findings) == {"episode 0"}
    assert "was set back" in findings["episode 0"].text


def command(kind: str, stamp: int) -> object:
    """A command that leads the joints by half a second; a trajectory of 1.2 s."""
    if kind == "std_msgs/msg/Float64MultiArray":
        layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        return STORE.types[kind](layout=layout, data=position(stamp + SECOND // 2))
    empty = np.zeros(0)
    points = [
        STORE.types["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=position(stamp + SECOND // 2 + ahead),
            velocities=empty,
            accelerations=empty,
            effort=empty,
            time_from_start=STORE.types["builtin_interfaces/msg/Duration"](
                sec=ahead // SECOND, nanosec=ahead % SECOND
            ),
        )
        for ahead in (0, 400 * MS, 1200 * MS)
    ]
    names = ["pan", "lift", "grip"]
    return STORE.types[kind](header=header(stamp), joint_names=names, points=points)


@pytest.mark.parametrize(
    ("sample", "kind", "fps"),
    [
        ("frame", None, 10),
        ("next", None, 7),
        ("frame", "trajectory_msgs/msg/JointTrajectory", 10),
        ("frame", "std_msgs/msg/Float64MultiArray", 10),
    ],
)
def test_a_converted_dataset_agrees_with_its_bag(tmp_path, sample, kind, fps):
    """Stamps wander, a stream lacks messages, and the grid falls between samples."""
    sample_contract(tmp_path, sample=sample)
    path = tmp_path / "sample_arm.yaml"
    path.write_text(path.read_text().replace("fps: 10", f"fps: {fps}"))
    recording = Recording(
        seconds=3.2,
        start=EPOCH + 12_345,
        jitter=4.0,
        keep=lambda topic, stamp: (
            "front" not in topic or not EPOCH + 1.5 * SECOND < stamp < EPOCH + 1.8 * SECOND
        ),
    )
    recorded = sample_messages(recording)
    if kind is not None:
        document = yaml.safe_load(path.read_text())
        del document["actions"]["arm"]["recorded"]
        document["actions"]["arm"]["type"] = kind
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        period = 1000 * MS if kind.endswith("JointTrajectory") else 60 * MS
        stamps = range(EPOCH, EPOCH + 3 * SECOND, period)
        recorded += [Message(s + 3 * MS, "/arm/command", kind, command(kind, s)) for s in stamps]
    bag = write_bag(tmp_path / "bag", sorted(recorded, key=lambda m: m.receive))
    out = tmp_path / "dataset"
    settings = ["--task", "stack the cups", "--vcodec", "h264", "--workers", "1"]
    assert convert([str(bag), "--contract", str(path), "--out", str(out), *settings]) == 0
    report = tmp_path / "report.json"
    arguments = ["dataset", str(out), "--contract", str(path), "--against", str(bag)]
    assert main([*arguments, "--json", str(report)]) == 0
    findings = json.loads(report.read_text())["findings"]
    against = {f["subject"]: f for f in findings if f["check"] == "against"}
    assert set(against) == {STATE, ACTION, FRONT, WRIST}
    assert {f["level"] for f in against.values()} == {"ok"}
    assert {f["check"] for f in findings if f["level"] != "ok"} <= {"duplicate"}
    frames = sum(row["length"] for row in open_dataset(out).records)
    assert f"{3 * frames} values compared" in against[STATE]["text"]
    assert f"{frames} pictures compared" in against[FRONT]["text"]


def test_a_bag_that_was_moved_is_found_by_its_times(good, tmp_path):
    root, _, bags = good
    moved = shutil.copytree(bags, tmp_path / "elsewhere")
    arguments = ["dataset", str(root), "--contract", str(root.parent / "sample_arm.yaml")]
    assert main([*arguments, "--against", str(moved)]) == 0


def test_a_damaged_dataset_is_not_compared(good, dataset, capsys):
    edit_table(dataset / DATA, lambda frame: frame.drop(index=5))
    arguments = ["dataset", str(dataset), "--contract", str(good[0].parent / "sample_arm.yaml")]
    assert main([*arguments, "--against", str(good[2])]) == 1
    assert "not compared: the tables are damaged" in capsys.readouterr().out


def test_the_same_dataset_is_good_by_itself(good):
    """What the bags show in these tests, the dataset alone does not."""
    _, findings = check_dataset(good[0], load_contract(good[0].parent / "sample_arm.yaml"))
    assert {f.level for f in findings} == {"ok"}
