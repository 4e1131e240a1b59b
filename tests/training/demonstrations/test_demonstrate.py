# SPDX-License-Identifier: Apache-2.0
"""vla-demonstrate on the real simulation, read back by LeRobot and by our own readers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.bringup.graph import find_contract
from vla_nodes.sim.arm import TabletopArm
from vla_training.data.checks.check import main as check
from vla_training.data.demonstrations import demonstration_shards
from vla_training.data.demonstrations.course import Step, run_episode
from vla_training.data.demonstrations.demonstrate import main
from vla_training.data.demonstrations.episode_plan import EpisodePlan, Shares, plan_episode
from vla_training.data.demonstrations.noise import NoiseSettings
from vla_training.data.labels.label import main as label
from vla_training.data.loading.training_set import TrainingSet

SEED = 3
CAMERAS = {"front": (96, 96), "wrist": (96, 96)}
FAST = ["--vcodec", "h264", "--crf", "12", "--preset", "ultrafast"]
SHARES = Shares(single=1.0)
OPTIONS = ["--seed", str(SEED), "--single", "1", *FAST]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes, of which one fails. Not to be written to."""
    out = tmp_path_factory.mktemp("demonstrations") / "set"
    assert main([str(out), "--episodes", "3", *OPTIONS]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["set"]
    return out


@pytest.fixture(scope="module")
def runs() -> list[tuple[EpisodePlan, list[Step], bool]]:
    """The same episodes in other arms, one each."""
    found = []
    for index in range(3):
        arm, steps, plan = TabletopArm(), [], plan_episode(SEED, index, SHARES)
        success = run_episode(arm, plan, NoiseSettings(), CAMERAS, 20, steps.append)
        assert success == arm.task_done(plan.task)
        found.append((plan, steps, success))
        arm.close()
    return found


def rows(out: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(file) for file in sorted((out / "data").rglob("*.parquet")))


def test_the_dataset_passes_the_checks(dataset: Path) -> None:
    contract = str(find_contract("sim_arm"))
    assert check(["dataset", str(dataset), "--contract", contract]) == 0


def test_the_dataset_holds_the_episodes_frame_by_frame(dataset: Path, runs: list) -> None:
    read = LeRobotDataset("a/b", root=dataset, video_backend="pyav")
    assert len(read) == sum(len(steps) for _, steps, _ in runs)
    assert {success for *_, success in runs} == {True, False}
    index = 0
    for episode, (plan, steps, success) in enumerate(runs):
        for frame, step in enumerate(steps):
            item = read[index]
            assert (int(item["episode_index"]), int(item["frame_index"])) == (episode, frame)
            assert int(item["bag_time_ns"]) == 50_000_000 * frame
            assert (item["task"], item["subtask"]) == (plan.task, step.subtask)
            assert int(item["outcome"]) == int(success)
            np.testing.assert_array_equal(item["observation.state"], step.state.astype("float32"))
            np.testing.assert_array_equal(item["action"], step.action.astype("float32"))
            if frame % 10 == 0:
                for camera, picture in step.pictures.items():
                    decoded = item[f"observation.images.{camera}"].permute(1, 2, 0).numpy() * 255
                    assert np.abs(decoded - picture).mean() < 4
            index += 1


def test_pictures_show_the_arm_as_it_is_when_the_state_is_measured() -> None:
    plan = plan_episode(SEED, 0, SHARES)
    arm, twin = TabletopArm(), TabletopArm()
    shots = []
    render = arm.render

    def watched(camera: str, width: int, height: int) -> np.ndarray:
        shots.append(arm.snapshot())
        return render(camera, width, height)

    arm.render = watched
    steps: list[Step] = []
    run_episode(arm, plan, NoiseSettings(), CAMERAS, 20, steps.append)
    twin.reset(plan.layout_seed, plan.layout)
    for frame in range(10, len(steps) - 1, 20):
        for place, camera in enumerate(CAMERAS):
            twin.show(shots[2 * frame + place])
            np.testing.assert_array_equal(twin.joint_positions, steps[frame].state)
            # Physics renders the bodies as they were one step of 5 ms ago.
            shown = twin.render(camera).astype(float)
            near = [steps[frame + k].pictures[camera] for k in (-1, 0, 1)]
            off = [np.abs(shown - picture).mean() for picture in near]
            assert off[1] == min(off)
            assert off[1] < 3
    for used in (arm, twin):
        used.close()


@pytest.mark.timeout(300)  # the processes that it starts load PyTorch
def test_two_processes_make_the_same_dataset_and_more_episodes_change_none(
    dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    assert main([str(out), "--episodes", "2", "--workers", "2", *OPTIONS]) == 0
    expected = rows(dataset)
    expected = expected[expected["episode_index"] < 2]
    pd.testing.assert_frame_equal(rows(out), expected)
    other = tmp_path / "other"
    assert main([str(other), "--episodes", "1", *OPTIONS, "--seed", "4"]) == 0
    # At first every arm stands still; a second later it has gone its own way.
    assert not np.array_equal(rows(other)["action"].iloc[20], expected["action"].iloc[20])


def test_it_can_be_labelled_and_trained_on(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(dataset, copy)
    assert label([str(copy)]) == 0
    table = rows(copy)
    last = table.groupby("episode_index").last()
    assert (last["return"][last["outcome"] == 1] == 0.0).all()
    assert (last["return"][last["outcome"] == 0] <= -0.5).all()
    items = TrainingSet(copy, 4)
    assert items.schema.robot == "sim_arm"
    assert len(items) == len(table)


def test_the_metadata_say_how_it_was_made(dataset: Path, runs: list) -> None:
    about = json.loads((dataset / "meta" / "conversion.json").read_text())
    assert about["made_by"] == "vla-demonstrate"
    assert about["settings"]["seed"] == SEED
    assert about["settings"]["shares"]["single"] == 1.0
    told = [(episode["outcome"], episode["source"]["fault"]) for episode in about["episodes"]]
    assert told == [("success" if success else "failure", plan.fault) for plan, _, success in runs]


def test_the_summary_counts_failures_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = replace(plan_episode(SEED, 0, SHARES), fault="blocked", onset=0.3, limit=0.5)
    monkeypatch.setattr(demonstration_shards, "plan_episode", lambda *_: blocked)
    assert main([str(tmp_path / "set"), "--episodes", "2", *OPTIONS]) == 0
    text = capsys.readouterr().out
    assert "2 episodes, 0 successes and 2 failures (2 blocked); 20 frames at 20 Hz" in text


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--episodes", "1", "--workers", "0"], "--workers is 0"),
        (["--episodes", "1", "--seed", "-1"], "--seed is -1"),
        (["--episodes", "1", "--failures", "1.5"], "--failures is 1.5"),
        (["--episodes", "1", "--random-starts", "nan"], "--random-starts is nan"),
        (["--episodes", "1", "--noise-share", "1"], "--noise-share is 1.0"),
        (["--episodes", "1", "--noise-size", "-0.1"], "--noise-size is -0.1"),
        (["--episodes", "1", "--vcodec", "theora"], "theora"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], fault: str
) -> None:
    assert main([str(tmp_path / "set"), *options]) == 1
    text = capsys.readouterr().err
    assert fault in text
    assert text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dataset_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("here")
    assert main([str(tmp_path), "--episodes", "1"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    run: Callable = demonstration_shards.run_episode
    short = replace(plan_episode(SEED, 0, SHARES), fault="blocked", limit=0.5)
    left = [1]

    def run_once(*arguments: object) -> bool:
        if not left:
            raise raised
        left.pop()
        return run(*arguments)

    monkeypatch.setattr(demonstration_shards, "plan_episode", lambda *_: short)
    monkeypatch.setattr(demonstration_shards, "run_episode", run_once)
    expected = 130 if raised is KeyboardInterrupt else 1
    assert main([str(tmp_path / "set"), "--episodes", "2", *OPTIONS]) == expected
    assert not list(tmp_path.iterdir())
