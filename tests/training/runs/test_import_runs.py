# SPDX-License-Identifier: Apache-2.0
"""vla-import-runs on folders of real JPEGs and arrays, read back by LeRobot."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.contract import contract_digest, load_contract
from vla_training.data.runs import run_shards
from vla_training.data.runs.import_runs import main

CAMERAS = {"cam_high": (64, 96), "wrist-1": (64, 64)}  # (height, width)
FPS = 30
TEXTS = {
    "high_level_task": "tidy the room",
    "task_instructions": [
        {"stage": 1, "high_level_task": "clean the bedroom", "subtask": "pick up the pillow"},
        {"stage": 2, "subtask": "straighten the blanket", "text": "an older text"},
        {"stage": 10, "text": "close  the\ndoor"},
    ],
    "tasks": {
        "bedroom": {
            "text": "clean the bedroom",
            "subtasks": {"pillow": {"text": "pick up the pillow"}, "blanket": {"text": "整理毯子"}},
        },
        "kitchen": {"subtasks": {"cups": {"text": "stapel die Bücher für Zoë"}}},
    },
}


def colour(run: int, frame: int, camera: int) -> np.ndarray:
    """BGR that tells which picture it is."""
    return np.array([40 * (run % 6) + 20, 20 * (frame % 11) + 20, 100 * camera + 60], np.uint8)


def vectors(run: int, length: int, width: int) -> np.ndarray:
    return np.random.default_rng(run).normal(size=(length, width)) + np.arange(length)[:, None]


def write_jpeg(path: Path, size: tuple[int, int], bgr: np.ndarray) -> None:
    picture = np.broadcast_to(bgr, (*size, 3))
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture))
    assert done
    path.write_bytes(data.tobytes())


def write_run(
    folder: Path, number: int, length: int = 4, dtype: str = "float32", name: str = "frame_{}.jpg"
) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "actions.npy", vectors(number, length, 3).astype(dtype))
    np.save(folder / "qpos.npy", vectors(number + 50, length, 2).astype(dtype))
    for place, (camera, size) in enumerate(CAMERAS.items()):
        (folder / camera).mkdir()
        for frame in range(length):
            # Numbers without leading zeros: sorted as texts, 10 would come before 2.
            write_jpeg(folder / camera / name.format(frame), size, colour(number, frame, place))


def write_texts(tmp_path: Path, content: Any = TEXTS) -> Path:
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def arguments(root: Path, *more: str, texts: Any = TEXTS) -> list[str]:
    instructions = write_texts(root.parent, texts)
    fast = ["--vcodec", "h264", "--crf", "18", "--preset", "ultrafast", "--workers", "2"]
    out = str(root.parent / "out" / "set")
    fixed = [str(root), "--instructions", str(instructions), "--fps", str(FPS), "--out", out]
    return [*fixed, *fast, *more]


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    capsys.readouterr()
    assert main(argv) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def assert_holds(out: Path, runs: list[tuple[int, int, str, str]], dtype: str = "float32") -> None:
    """Compares a dataset with what was written: (number, length, task, subtask) of each run."""
    dataset = LeRobotDataset("a/b", root=out, video_backend="pyav")
    assert dataset.num_episodes == len(runs)
    subtasks = pd.read_parquet(out / "meta/subtasks.parquet")
    index = 0
    for episode, (number, length, task, subtask) in enumerate(runs):
        actions = vectors(number, length, 3).astype(dtype).astype(np.float32)
        positions = vectors(number + 50, length, 2).astype(dtype).astype(np.float32)
        for frame in range(length):
            item = dataset[index]
            np.testing.assert_array_equal(item["action"].numpy(), actions[frame])
            np.testing.assert_array_equal(item["observation.state"].numpy(), positions[frame])
            assert (item["task"], item["subtask"]) == (task, subtask)
            assert subtasks.index[int(item["subtask_index"])] == subtask
            assert int(item["episode_index"]) == episode
            assert int(item["frame_index"]) == frame
            # Exact integers: no float of seconds tells whole ns.
            assert int(item["bag_time_ns"]) == (2 * frame * 10**9 + FPS) // (2 * FPS)
            for place, (camera, size) in enumerate(CAMERAS.items()):
                picture = item[f"observation.images.{camera}"]
                assert tuple(picture.shape) == (3, *size)
                rgb = picture.mean(dim=(1, 2)).numpy() * 255
                expected = colour(number, frame, place)[::-1].astype(float)
                np.testing.assert_allclose(rgb, expected, atol=6)
            index += 1
    assert len(dataset) == index


def test_tasks_and_subtasks_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "bedroom/pillow/run_001", 1, 11)
    write_run(root / "bedroom/pillow/run_002", 2, 1)
    write_run(root / "bedroom/pillow/run_010", 3, 2)
    write_run(root / "bedroom/blanket/run_001", 4, 2)
    write_run(root / "kitchen/cups/run_1", 5, 2)
    assert main(arguments(root)) == 0
    clean = "clean the bedroom"
    assert_holds(
        tmp_path / "out/set",
        [
            (4, 2, clean, "整理毯子"),
            (1, 11, clean, "pick up the pillow"),
            (2, 1, clean, "pick up the pillow"),
            (3, 2, clean, "pick up the pillow"),
            (5, 2, "tidy the room", "stapel die Bücher für Zoë"),
        ],
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


def test_stages_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage10/run_001", 1, 3, "float64", "{}.jpeg")
    write_run(root / "stage2/run_001", 2, 4, "float64", "{:06d}.JPG")
    write_run(root / "stage1/run_007", 3, 2, "float64")
    write_run(root / "stage1/run_12", 4, 2, "float64")
    assert main(arguments(root, "--outcome", "success")) == 0
    out = tmp_path / "out/set"
    assert_holds(
        out,
        [
            (3, 2, "clean the bedroom", "pick up the pillow"),
            (4, 2, "clean the bedroom", "pick up the pillow"),
            (2, 4, "tidy the room", "straighten the blanket"),
            (1, 3, "tidy the room", "close the door"),
        ],
        "float64",
    )
    outcomes = pd.read_parquet(out / "data/chunk-000/file-000.parquet")["outcome"]
    assert set(outcomes) == {1}


def test_without_a_map_folders_are_taken_at_their_word(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "clean_the_bedroom/pick_up_pillow/run_001", 1, 2)
    write_run(root / "lay_the_table/put_a_fork/run_001", 2, 2)
    assert main(arguments(root, texts={"high_level_task": None, "tasks": None})) == 0
    assert_holds(
        tmp_path / "out/set",
        [
            (1, 2, "clean the bedroom", "pick up pillow"),
            (2, 2, "lay the table", "put a fork"),
        ],
    )


def test_the_outcome_is_unknown_and_the_joints_are_numbered(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1, 2)
    assert main(arguments(root)) == 0
    out = tmp_path / "out/set"
    table = pd.read_parquet(out / "data/chunk-000/file-000.parquet")
    assert set(table["outcome"]) == {-1}
    features = json.loads((out / "meta/info.json").read_text())["features"]
    assert features["action"]["names"] == ["joint_0", "joint_1", "joint_2"]
    assert features["observation.state"]["names"] == ["joint_0", "joint_1"]
    about = json.loads((out / "meta/conversion.json").read_text())
    assert about["contract_digest"] is None
    assert about["episodes"][0]["source"]["run"] == "stage1/run_001"


CONTRACT = """\
robot: two_joints
fps: {fps}
timeline: header
reference: cam_high
max_skew: 0.1
cameras:
  cam_high: {{topic: /a, type: sensor_msgs/msg/CompressedImage, encoding: jpeg,
              width: {width}, height: 64, max_age: 0.2}}
states:
  arm: {{topic: /joint_states, joints: [{states}], max_age: 0.2}}
actions:
  arm:
    topic: /command
    type: trajectory_msgs/msg/JointTrajectory
    joints: [{joints}]
    limits:
      default: {{velocity: 1.0, acceleration: 5.0}}
      joints: {{pan: {{position: [-4, 4]}}, lift: {{position: [-4, 4]}}}}
"""


@pytest.fixture
def contracted(tmp_path: Path) -> tuple[Path, Callable[..., Path]]:
    """A run of one camera and two joints, and contracts for it."""
    run = tmp_path / "runs/stage1/run_001"
    write_run(run, 1, 3)
    shutil.rmtree(run / "wrist-1")
    np.save(run / "actions.npy", vectors(1, 3, 2))

    def contract(**values: Any) -> Path:
        path = tmp_path / "arm.yaml"
        settings = {"fps": FPS, "width": 96, "joints": "pan, lift", "states": "pan, lift", **values}
        path.write_text(CONTRACT.format(**settings))
        return path

    return tmp_path / "runs", contract


def test_a_contract_gives_the_names(contracted: tuple[Path, Callable[..., Path]]) -> None:
    root, contract = contracted
    assert main(arguments(root, "--contract", str(contract()))) == 0
    out = root.parent / "out/set"
    info = json.loads((out / "meta/info.json").read_text())
    assert info["features"]["action"]["names"] == ["pan", "lift"]
    assert info["features"]["observation.state"]["names"] == ["pan.position", "lift.position"]
    assert info["robot_type"] == "two_joints"
    about = json.loads((out / "meta/conversion.json").read_text())
    assert about["contract_digest"] == contract_digest(load_contract(contract()))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"fps": 20}, "frames per second: 20"),
        ({"width": 80}, "cameras of (height, width): {'cam_high': (64, 80)}"),
        ({"joints": "pan"}, "arm.yaml"),
        ({"states": "pan, lift, grip"}, "values in qpos.npy: 3 by the contract, 2 in run stage1/"),
    ],
)
def test_a_contract_of_another_robot_is_refused(
    contracted: tuple[Path, Callable[..., Path]],
    capsys: pytest.CaptureFixture[str],
    values: dict[str, Any],
    named: str,
) -> None:
    root, contract = contracted
    assert named in refusal(capsys, arguments(root, "--contract", str(contract(**values))))


RUN = "stage1/run_002"


def shorter(name: str) -> Callable[[Path], None]:
    return lambda run: np.save(run / name, np.load(run / name)[:-1])


def saved(name: str, array: Any) -> Callable[[Path], None]:
    return lambda run: np.save(run / name, array)


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def spoilt(array: str, value: float) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        values = np.load(run / array)
        values[2, 1] = value
        np.save(run / array, values)

    return spoil


def renamed(names: list[str]) -> Callable[[Path], None]:
    """Gives the pictures of a camera other names."""

    def rename(run: Path) -> None:
        for path, name in zip(sorted((run / "cam_high").iterdir()), names, strict=True):
            path.rename(path.with_name(name))

    return rename


def linked(name: str) -> Callable[[Path], None]:
    """Moves a part out of the root and leaves a link to it."""

    def link(run: Path) -> None:
        elsewhere = run.parents[2] / "elsewhere"
        shutil.move(run / name, elsewhere)
        (run / name).symlink_to(elsewhere)

    return link


def header_of(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


FRAME = "cam_high/frame_1.jpg"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (shorter("actions.npy"), [RUN, "3 in actions.npy, 4 in qpos.npy, 4 in cam_high/"]),
        (shorter("qpos.npy"), [RUN, "4 in actions.npy, 3 in qpos.npy"]),
        (lambda run: (run / FRAME).unlink(), [RUN, "3 in cam_high/, 4 in wrist-1/"]),
        (lambda run: (run / "actions.npy").unlink(), ["run_002/actions.npy is missing"]),
        (written("actions.npy", b"nothing"), ["run_002/actions.npy cannot be read"]),
        (written("actions.npy", b""), ["run_002/actions.npy cannot be read"]),
        (written("actions.npy", b"PK\3\4"), ["run_002/actions.npy cannot be read"]),
        (written("actions.npy", header_of("'(4, 3)")), ["run_002/actions.npy cannot be read"]),
        (saved("actions.npy", np.array([{}])), ["actions.npy cannot be read"]),
        (saved("actions.npy", np.zeros(4)), ["float64 (4,), expected floats of (frames, values)"]),
        (saved("actions.npy", np.zeros((4, 3), int)), ["holds int64 (4, 3)"]),
        (saved("actions.npy", np.zeros((4, 5000), "f4")), ["(4, 5000), expected"]),
        (saved("actions.npy", np.zeros((4, 2))), [RUN, "a width of actions.npy of 2, expected 3"]),
        (written("actions.npy", header_of("(1000000000000, 3)")), ["actions.npy cannot be read"]),
        (spoilt("actions.npy", np.nan), [RUN, "frame 2", "action joint_1", "not a finite"]),
        (spoilt("qpos.npy", -np.inf), [RUN, "frame 2", "observation.state joint_1"]),
        (written(FRAME, b""), [f"{RUN}/{FRAME}", "nothing, expected a JPEG"]),
        (written(FRAME, b"\xff\xd8\xff\xe0"), [f"{RUN}/{FRAME}", "cut short"]),
        (
            lambda run: write_jpeg(run / FRAME, (32, 32), np.zeros(3, np.uint8)),
            [f"{RUN}/{FRAME} has 32 x 32 px, expected 96 x 64"],
        ),
        (
            lambda run: (
                cv2.imwrite(str(run / "a.png"), np.zeros((64, 96, 3), np.uint8))
                and (run / "a.png").rename(run / FRAME)
            ),
            [f"{RUN}/{FRAME} is a png, expected a JPEG"],
        ),
        (
            lambda run: shutil.rmtree(run / "wrist-1"),
            [RUN, "cameras ['cam_high'], expected ['cam_"],
        ),
        (lambda run: (run / "wrist-1").rename(run / "wrist 1"), ["a camera 'wrist 1'"]),
        (
            renamed(["1.25.jpg", "1.5.jpg", "1.75.jpg", "2.0.jpg"]),
            [f"{RUN}/cam_high: 1.5.jpg and 1.25.jpg could come in either order"],
        ),
        (
            lambda run: [
                write_jpeg(path, (48, 48), np.zeros(3, np.uint8))
                for path in (run / "wrist-1").iterdir()
            ],
            [RUN, "pictures of (height, width)", "(48, 48)"],
        ),
        (lambda run: (shutil.rmtree(run), run.mkdir()), [RUN, "holds no folder of JPEGs"]),
        (linked("actions.npy"), ["run_002/actions.npy leads out of"]),
        (linked("cam_high"), ["run_002/cam_high leads out of"]),
        (linked(FRAME), [f"{FRAME} leads out of"]),
    ],
)
def test_a_run_that_is_not_whole_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    named: list[str],
) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    write_run(root / RUN, 2)
    spoil(root / RUN)
    text = refusal(capsys, arguments(root))
    for part in named:
        assert part in text
    assert not (tmp_path / "out/set").exists()


def test_times_of_as_many_digits_each_are_in_order(tmp_path: Path) -> None:
    run = tmp_path / "runs/stage1/run_001"
    write_run(run, 1)
    renamed(["9.500.jpg", "10.050.jpg", "10.500.jpg", "10.750.jpg"])(run)
    assert main(arguments(tmp_path / "runs")) == 0
    assert_holds(tmp_path / "out/set", [(1, 4, "clean the bedroom", "pick up the pillow")])


def test_a_truncated_jpeg_is_no_grey_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    path = root / "stage1/run_001" / FRAME
    path.write_bytes(path.read_bytes()[:-20])
    assert "cut short" in refusal(capsys, arguments(root))


def test_a_picture_that_says_it_lies_on_its_side_stays_as_it_was_taken(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    path = root / "stage1/run_001" / FRAME
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = path.read_bytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path.write_bytes(data[:2] + segment + data[2:])
    assert cv2.imread(str(path)).shape == (96, 64, 3)  # OpenCV turns it unless told otherwise
    assert main(arguments(root)) == 0
    assert_holds(tmp_path / "out/set", [(1, 4, "clean the bedroom", "pick up the pillow")])


def test_a_run_of_no_frames_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs/stage1/run_001"
    write_run(run, 1)
    for name, width in (("actions.npy", 3), ("qpos.npy", 2)):
        np.save(run / name, np.zeros((0, width), np.float32))
    for path in run.rglob("*.jpg"):
        path.unlink()
    assert "run_001" in refusal(capsys, arguments(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("stage3/run_001", "stage 3 has no task"),
        ("bedroom/lamp/run_001", "tasks.bedroom.subtasks has no 'lamp'"),
        ("attic/lamp/run_001", "tasks has no 'attic'"),
        ("bedroom/run_001", "bedroom holds runs; expected them in TASK/SUBTASK or in stageN"),
        ("stage1/deeper/still/run_001", "holds no run"),
        ("run_001", "holds no run"),
    ],
)
def test_a_run_in_a_place_without_instructions_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, named: str
) -> None:
    write_run(tmp_path / "runs" / place, 1, 1)
    assert named in refusal(capsys, arguments(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "is [], expected an object"),
        ({"high_level_task": 3}, "json: high_level_task is 3, expected a text"),
        ({"high_level_task": "a\u0007b"}, "control characters"),
        ({"high_level_task": "a" * 600}, "600 characters"),
        ({"high_level_task": "a", "task_instructions": {}}, "expected a list"),
        ({"high_level_task": "a", "task_instructions": [3]}, "task_instructions[0] is 3"),
        (
            {"task_instructions": [{"stage": "1"}]},
            "task_instructions[0].stage is '1', expected a whole number",
        ),
        ({"task_instructions": [{"stage": 1}, {"stage": 1}]}, "task_instructions[1].stage is 1"),
        ({"task_instructions": [{"stage": 1, "subtask": "b"}]}, "stage 1 has no task"),
        ({"task_instructions": [{"stage": 1, "high_level_task": "b"}]}, "stage 1 has no subtask"),
        ({"tasks": {"bedroom": "clean"}}, "tasks.bedroom is 'clean', expected an object"),
        ({"tasks": {"bedroom": {"subtasks": {"a": "b"}}}}, "tasks.bedroom.subtasks.a is 'b'"),
    ],
)
def test_instructions_that_make_no_sense_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, named: str
) -> None:
    write_run(tmp_path / "runs/stage1/run_001", 1, 1)
    text = refusal(capsys, arguments(tmp_path / "runs", texts=content))
    assert named in text
    assert "instructions.json" in text


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_instructions_that_are_no_json_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    write_run(tmp_path / "runs/stage1/run_001", 1, 1)
    argv = arguments(tmp_path / "runs")
    (tmp_path / "instructions.json").write_bytes(content)
    assert "instructions.json is no JSON" in refusal(capsys, argv)
    (tmp_path / "instructions.json").unlink()
    assert "instructions.json cannot be read" in refusal(capsys, argv)


def test_what_is_no_run_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    write_run(root / "stage1/run_002_bad", 2)
    (root / "stage1/run_001/notes").mkdir()
    (root / "stage1/run_001/cam_high/Thumbs.db").write_text("x")
    (root / "stage1/run_001/cam_high/._frame_1.jpg").write_text("x")
    (root / "old\nnotes").mkdir()
    (root / ".git").mkdir()
    assert main(arguments(root)) == 0
    assert "old\\nnotes, stage1/run_002_bad\n" in capsys.readouterr().out
    assert_holds(tmp_path / "out/set", [(1, 4, "clean the bedroom", "pick up the pillow")])


def test_an_existing_dataset_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/stage1/run_001", 1)
    (tmp_path / "out/set").mkdir(parents=True)
    assert "exists already" in refusal(capsys, arguments(tmp_path / "runs"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


@pytest.mark.parametrize("option", [["--fps", "0"], ["--workers", "0"], ["--vcodec", "vhs"]])
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    write_run(tmp_path / "runs/stage1/run_001", 1, 1)
    assert option[1] in refusal(capsys, [*arguments(tmp_path / "runs"), *option])
    assert not (tmp_path / "out/set").exists()


def test_an_import_goes_on_where_it_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    for number in (1, 2, 3):
        write_run(root / f"stage1/run_{number:03d}", number)
    bad = root / "stage1/run_003" / FRAME
    bad.write_bytes(b"")
    argv = [*arguments(root), "--workers", "1"]
    assert "run_003" in refusal(capsys, argv)
    assert not (tmp_path / "out/set").exists()
    assert "--resume" in refusal(capsys, argv)
    # What was wrong is mended, and meanwhile another run has changed.
    write_jpeg(bad, CAMERAS["cam_high"], colour(3, 1, 0))
    shutil.rmtree(root / "stage1/run_002")
    write_run(root / "stage1/run_002", 4, 5)
    made: list[str] = []

    class Watched(run_shards.ShardWriter):
        def __init__(self, folder: Path, *rest: Any) -> None:
            made.append(folder.name)
            super().__init__(folder, *rest)

    monkeypatch.setattr(run_shards, "ShardWriter", Watched)
    assert main([*argv, "--resume"]) == 0
    assert made == ["run-000001", "run-000002"]
    texts = ("clean the bedroom", "pick up the pillow")
    assert_holds(tmp_path / "out/set", [(1, 4, *texts), (4, 5, *texts), (3, 4, *texts)])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


def test_pictures_that_were_renamed_meanwhile_are_imported_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    for number in (1, 2):
        write_run(root / f"stage1/run_{number:03d}", number)
    camera, bad = root / "stage1/run_001/cam_high", root / "stage1/run_002" / FRAME
    (camera / "frame_3.jpg").rename(camera / "frame_00.jpg")
    good = bad.read_bytes()
    bad.write_bytes(b"")
    assert "run_002" in refusal(capsys, [*arguments(root), "--workers", "1"])
    bad.write_bytes(good)
    (camera / "frame_00.jpg").rename(camera / "frame_3.jpg")
    assert main([*arguments(root), "--workers", "1", "--resume"]) == 0
    texts = ("clean the bedroom", "pick up the pillow")
    assert_holds(tmp_path / "out/set", [(1, 4, *texts), (2, 4, *texts)])


def test_an_import_that_was_killed_at_its_very_end_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    (root / "stage1/run_001" / FRAME).rename(tmp_path / "kept")
    write_jpeg(root / "stage1/run_001" / FRAME, (32, 32), colour(0, 0, 0))
    refusal(capsys, arguments(root))
    (tmp_path / "kept").rename(root / "stage1/run_001" / FRAME)
    leftover = tmp_path / "leftover"
    shutil.copytree(tmp_path / "out/.set.partial", leftover)
    assert main(arguments(root, "--resume")) == 0
    before = (tmp_path / "out/set/meta/info.json").stat()
    leftover.rename(tmp_path / "out/.set.partial")
    assert main(arguments(root, "--resume")) == 0
    assert (tmp_path / "out/set/meta/info.json").stat() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


def test_another_import_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    write_run(root / "stage1/run_001", 1)
    (root / "stage1/run_001" / FRAME).write_bytes(b"")
    refusal(capsys, arguments(root))
    text = refusal(capsys, [*arguments(root), "--crf", "30", "--resume"])
    assert "crf was 18 and is 30" in text
