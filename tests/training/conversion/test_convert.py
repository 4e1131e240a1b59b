# SPDX-License-Identifier: Apache-2.0
"""``vla-convert`` from real bags to a dataset that LeRobot reads."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from bag_samples import (
    EPOCH,
    SECOND,
    Recording,
    image,
    picture,
    sample_contract,
    sample_messages,
    stamp_of,
    write_bag,
)
from convert_samples import TASK, Truth, at, cli, joints, merged
from lerobot.datasets import LeRobotDataset
from rosbags.rosbag2 import StoragePlugin

from vla_nodes.contract import contract_digest, load_contract
from vla_training.data.conversion.convert import main


def read(folder, name="dataset"):
    return LeRobotDataset(name, root=folder / name, video_backend="pyav")


def column(dataset, name, episode):
    rows = dataset.hf_dataset.with_format("numpy")[:]
    return rows[name][rows["episode_index"] == episode]


def assert_same_vectors(dataset, episode, truth):
    np.testing.assert_array_equal(column(dataset, "bag_time_ns", episode), truth.times)
    for name, expected in (("observation.state", truth.states), ("action", truth.actions)):
        np.testing.assert_allclose(column(dataset, name, episode), expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Three bags of the sample arm; pictures of the last one have another size."""
    folder = tmp_path_factory.mktemp("converted")
    sample_contract(folder)
    recordings = [
        Recording(seconds=2.0, seed=seed, start=EPOCH + seed * 10 * SECOND, jitter=3.0)
        for seed in range(3)
    ]
    messages = [sample_messages(recording) for recording in recordings]
    for m in messages[2]:
        if m.topic == "/front/image":
            m.value.__dict__.update(image(stamp_of(m), picture(stamp_of(m), 32, 24)).__dict__)
    write_bag(folder / "ep_2", messages[0], custom=TASK)
    write_bag(folder / "ep_10", messages[1], StoragePlugin.SQLITE3, {"task": "wipe the table"})
    write_bag(folder / "ep_11", messages[2], custom=TASK)
    return folder, messages, cli(folder, "ep_*", report=folder / "report.json", crf=5)


def test_a_dataset_holds_what_the_bags_say(converted):
    folder, messages, code = converted
    assert code == 0
    dataset = read(folder)
    assert (dataset.num_episodes, dataset.fps) == (2, 10)
    assert [e["tasks"] for e in dataset.meta.episodes] == [["stack the cups"], ["wipe the table"]]
    for episode in range(2):
        assert_same_vectors(dataset, episode, Truth(messages[episode]))
        outcomes = np.unique(column(dataset, "outcome", episode))
        assert outcomes.tolist() == [(1, -1)[episode]]
    assert not list(folder.glob(".dataset*"))


def test_pictures_are_the_newest_that_are_not_after_their_frame(converted):
    folder, messages, _ = converted
    dataset = read(folder)
    index = 0
    for episode in range(2):
        truth = Truth(messages[episode])
        for time in truth.times:
            frame = dataset[index]
            index += 1
            for name, topic, size, shift in (
                ("front", "/front/image", (64, 48), 0),
                ("wrist", "/wrist/image/compressed", (64, 64), SECOND),
            ):
                expected = picture(truth.shown(topic, time) + shift, *size)
                found = 255 * frame[f"observation.images.{name}"].numpy().transpose(1, 2, 0)
                assert np.abs(found - expected).mean() < 3


def test_the_dataset_says_how_it_was_made(converted):
    folder, _, _ = converted
    made = json.loads((folder / "dataset/meta/conversion.json").read_text())
    assert made["contract_digest"] == contract_digest(load_contract(folder / "sample_arm.yaml"))
    assert made["settings"]["video"]["vcodec"] == "h264"
    assert made["settings"]["on_gap"] == "cut"
    sources = [episode["source"]["bags"][0] for episode in made["episodes"]]
    assert sources == [f"{folder.name}/ep_2", f"{folder.name}/ep_10"]


def test_the_report_tells_what_became_of_each_bag(converted):
    folder, messages, _ = converted
    report = json.loads((folder / "report.json").read_text())
    frames = [len(Truth(messages[episode]).times) for episode in range(2)]
    assert [episode["parts"] for episode in report["episodes"]] == [[n] for n in frames] + [[]]
    assert report["totals"]["frames"] == sum(frames)
    assert report["totals"]["images"] == 2 * sum(frames)
    assert report["totals"]["without_frames"] == 1
    [note] = [note for note in report["notes"] if "ep_11" in note]
    assert note.startswith(f"{folder / 'ep_11'} at 0.000 s: no frame: front is corrupt: ")
    assert "width is 32, expected 64" in note


def test_joints_alone_make_a_dataset_of_several_episodes_of_one_bag(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False, sample="next")
    messages = joints(2.0, jitter=2.0)
    subtasks = [at(0.5, "/subtask", "greifen"), at(1.5, "/subtask", "heben")]
    write_bag(tmp_path / "bag", merged(messages, subtasks))
    ranges = [
        {"bag": "bag", "start_s": 0, "stop_s": 1, "outcome": "failure"},
        {"bag": "bag", "start_s": 1, "task": "¿dónde está la taza? 杯子"},
    ]
    (tmp_path / "ranges.json").write_text(json.dumps(ranges))
    code = cli(
        tmp_path,
        "bag",
        episodes=f"ranges:{tmp_path / 'ranges.json'}",
        task="Würfel stapeln",
        min_length=0.5,
        fps=20,
    )
    assert code == 0
    dataset = read(tmp_path)
    begin = messages[0].receive
    for episode, (task, outcome) in enumerate(
        (("Würfel stapeln", 0), ("¿dónde está la taza? 杯子", -1))
    ):
        window = range(begin + episode * SECOND, begin + (9 if episode else 1) * SECOND)
        received = [m for m in messages if m.receive in window]
        truth = Truth(received, fps=20, sample="next", reference="/joint_states")
        assert_same_vectors(dataset, episode, truth)
        assert dataset.meta.episodes[episode]["tasks"] == [task]
        assert set(column(dataset, "outcome", episode).tolist()) == {outcome}
        times = column(dataset, "bag_time_ns", episode) - EPOCH
        names = ["" if t < 0.5e9 else "greifen" if t < 1.5e9 else "heben" for t in times]
        assert [str(text) for text in column(dataset, "subtask", episode)] == names
    assert "2 of 2" in capsys.readouterr().err


def test_a_dry_run_converts_nothing_and_says_what_would_be(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "good", joints(), custom=TASK)
    before = sorted(tmp_path.rglob("*"))
    assert cli(tmp_path, "good", dry_run=True) == 0
    shown = capsys.readouterr().out
    for text in ("stack the cups", "success", "3.000", "/leader/joint_states", "301", "100.3"):
        assert text in shown
    assert sorted(tmp_path.rglob("*")) == before
    lacking = [m for m in joints() if m.topic == "/joint_states"]
    write_bag(tmp_path / "lacking", lacking, custom=TASK)
    assert cli(tmp_path, "good", "lacking", dry_run=True) == 1
    shown = capsys.readouterr().out
    assert f"problem: {tmp_path / 'lacking'}: actions.arm.recorded.topic: /leader/" in shown


def test_every_bad_bag_is_named_before_anything_is_converted(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "good", joints(), custom=TASK)
    write_bag(tmp_path / "taskless", joints())
    write_bag(tmp_path / "empty", [], custom=TASK)
    wrong = [m._replace(type="std_msgs/msg/String", value=at(0, "", "x").value) for m in joints()]
    write_bag(tmp_path / "typed", wrong, custom=TASK)
    (tmp_path / "zero.mcap").touch()
    (tmp_path / "text.mcap").write_text("hello, this is no bag at all")
    names = ["good", "taskless", "empty", "typed", "zero.mcap", "text.mcap"]
    assert cli(tmp_path, *names) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert "--skip-bad" in first
    for name, reason in (
        ("taskless", "nothing says the task"),
        ("empty", "/joint_states is not in the bag"),
        ("typed", "/joint_states is std_msgs/msg/String, expected sensor_msgs/msg/JointState"),
        ("zero.mcap", "is empty"),
        ("text.mcap", "not"),
    ):
        assert any(f"{tmp_path / name}" in line and reason in line for line in lines), name
    assert not any("good" in line for line in lines)
    assert not list(tmp_path.glob(".*"))


def test_bad_bags_and_episodes_can_be_left_out(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "good", joints(), custom=TASK)
    write_bag(tmp_path / "taskless", joints())
    silent = joints(keep=lambda _, stamp: not EPOCH + SECOND < stamp < EPOCH + 2 * SECOND)
    write_bag(tmp_path / "gap", silent, custom=TASK)
    names = ["good", "taskless", "gap"]
    assert cli(tmp_path, "good", "gap", on_gap="fail") == 1
    error = capsys.readouterr().err
    assert "--resume --skip-bad" in error
    assert f"{tmp_path / 'gap'}: actions.arm is stale at 1.098 s: " in error
    options = {"on_gap": "fail", "skip_bad": True, "resume": True}
    assert cli(tmp_path, *names, **options, report=tmp_path / "report.json") == 0
    assert read(tmp_path).num_episodes == 1
    left_out = json.loads((tmp_path / "report.json").read_text())["left_out"]
    assert [text.split(":")[0] for text in left_out] == [
        f"{tmp_path / 'taskless'}",
        f"{tmp_path / 'gap'}",
    ]


def test_nothing_converted_is_an_error_with_the_reason(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "bag", joints(0.5), custom=TASK)
    assert cli(tmp_path, "bag") == 1
    error = capsys.readouterr().err
    assert "its longest part has 6 frames, which is less than --min-length" in error
    assert not (tmp_path / "dataset").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_bag_that_was_cut_short_gives_what_is_left_of_it(tmp_path):
    sample_contract(tmp_path, cameras=False)
    messages = joints(5.0, joint_period=0.5)  # several chunks
    path = write_bag(tmp_path / "bag", messages, custom={**TASK, "contract_digest": "0" * 64})
    [file] = path.glob("*.mcap")
    os.truncate(file, file.stat().st_size * 3 // 4)
    assert cli(tmp_path, "bag", report=tmp_path / "report.json") == 0
    assert 10 < read(tmp_path).num_frames < 51
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert sum("cut short" in note for note in notes) == 1
    assert sum("recorded by another contract" in note for note in notes) == 1


def test_a_topic_that_a_cut_took_away_is_told_with_the_cut(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    path = write_bag(tmp_path / "bag", joints(1.0), custom=TASK)
    [file] = path.glob("*.mcap")
    os.truncate(file, file.stat().st_size // 3)
    assert cli(tmp_path, "bag") == 1
    shown = capsys.readouterr().err
    assert "/joint_states is not in the bag" in shown
    assert "cut short" in shown


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fps": 29.97}, "fps is 29.97, LeRobot takes whole numbers; give --fps 30"),
        ({"fps": 0.5}, "fps is 0.5"),
        ({"fps": "nan"}, "fps is nan"),
        ({"resize": "640"}, "--resize is '640', expected WIDTHxHEIGHT"),
        ({"resize": "9999x48"}, "--resize is '9999x48', expected WIDTHxHEIGHT"),
        ({"min_length": -1}, "--min-length is -1 s"),
        ({"workers": 0}, "--workers is 0"),
        ({"task": " "}, "--task is empty"),
        ({"task": "a\nb"}, "expected no control characters"),
        ({"task": "a", "task_topic": "/b"}, "give one of them"),
        ({"task_topic": "/b"}, "/b is not in the bag"),
        ({"episodes": "topic:/e"}, "/e is not in the bag"),
        ({"out": "taken"}, "taken exists already; give another folder"),
        ({"out": "taken", "resume": True}, "taken exists already"),
        ({"out": "dangling"}, "dangling exists already"),
        ({"contract": "missing.yaml"}, "missing.yaml"),
        ({"report": "/no/such/folder/report.json"}, "a file in a folder that exists"),
        ({"report": "/"}, "--report is /, expected a file"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(tmp_path, capsys, options, error):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "bag", joints(1.0), custom=TASK)
    (tmp_path / "taken").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert cli(tmp_path, "bag", **options) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("vla-convert: ")
    assert error in shown
    assert not list(tmp_path.glob(".*"))


def test_no_bag_is_an_error(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    assert cli(tmp_path, "nothing*") == 1
    assert "no bag found" in capsys.readouterr().err


def test_an_encoder_that_cannot_do_it_is_told_before_the_work(tmp_path, capsys):
    sample_contract(tmp_path)
    write_bag(tmp_path / "bag", sample_messages(Recording(seconds=1.0)), custom=TASK)
    assert cli(tmp_path, "bag", vcodec="theora") == 1
    assert "theora" in capsys.readouterr().err
    assert cli(tmp_path, "bag", resize="65x47") == 1  # nothing is in its way
    error = capsys.readouterr().err
    assert "65x47" in error
    assert "\n" not in error.strip()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "bag", joints(1.0), custom=TASK)
    (tmp_path / "locked").mkdir(mode=0o500)
    assert cli(tmp_path, "bag", out="locked/dataset") == 1
    assert "locked" in capsys.readouterr().err


def test_neither_ros_nor_lerobot_is_loaded_to_refuse_a_request():
    code = (
        "import sys, vla_training.data.conversion.convert;"
        "print(*{'rclpy', 'lerobot', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_knows_its_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--on-gap", "--episodes", "--resume", "--dry-run", "--executor", "--report"):
        assert option in shown
