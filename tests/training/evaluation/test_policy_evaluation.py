# SPDX-License-Identifier: Apache-2.0
"""Reports against figures that are derived frame by frame, on the robot's engine, in loops."""

import json
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from evaluation_samples import (
    CAMERAS,
    CONFIG,
    FPS,
    HIGH,
    JOINTS,
    LOW,
    SUBTASKS,
    make_dataset,
    make_episodes,
    make_model,
    make_policy,
)
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.inference.engine import Pi05Engine
from vla_nodes.inference.engine_options import EngineOptions
from vla_nodes.models.checkpoint import load_model, read_checkpoint
from vla_nodes.models.pi05 import Tokens, Views
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.prompts import actor_prompt, planner_prompt, state_bins
from vla_training.data.loading.loaders import training_loader
from vla_training.data.loading.training_set import TrainingSet
from vla_training.evaluation.evaluate import main
from vla_training.evaluation.policy_evaluation import evaluate_policy, open_recording
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.tokens.fast import FastTokenizer

SAMPLES, SEED, STRIDE = 3, 11, 2
EPISODES = (0, 2, 3)


@pytest.fixture(scope="module")
def episodes():
    return make_episodes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, episodes):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data", episodes)


@pytest.fixture(scope="module")
def policy(tmp_path_factory, dataset):
    """A policy whose planner has learnt a little, so that it is right at times."""
    return train(tmp_path_factory.mktemp("trained"), dataset, 25)


def train(folder, dataset, steps, fast=None):
    """A policy that has learnt to plan; with ``fast`` also to write actions behind that."""
    model = make_model(replace(CONFIG, vocabulary=900))
    checkpoint = read_checkpoint(make_policy(folder / "begun", model))
    batches = PolicyBatches(
        checkpoint.config,
        checkpoint.tokenizer,
        checkpoint.normalization,
        checkpoint.robot.cameras,
        plans=True,
        acts=False,
        fast=fast,
    )
    items = TrainingSet(dataset, checkpoint.config.chunk, require=["subtask"])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rngs = [np.random.default_rng(0)] * 8
    for batch in training_loader(items, 8, steps, 0):
        optimizer.zero_grad()
        model(batches.make(batch, rngs, "cpu")[0]).total_loss.backward()
        optimizer.step()
    return make_policy(folder / "policy", model, advantage=True)


def evaluate(policy, dataset, out, *words):
    words = [*words, "--workers", "0", "--device", "cpu"]
    words = ["policy", "--checkpoint", str(policy), "--dataset", str(dataset), *words]
    return main([*words, "--out", str(out)])


@pytest.fixture(scope="module")
def report(policy, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    chosen = ["--episodes", "3,0,2", "--stride", str(STRIDE), "--samples", str(SAMPLES)]
    assert evaluate(policy, dataset, out, *chosen, "--seed", str(SEED), "--batch-size", "5") == 0
    return out


@dataclass
class Frame:
    """What the robot would do and plan in one frame, and what was recorded."""

    task: str
    recorded: str
    drawn: np.ndarray  # (K, T, A)
    actions: np.ndarray  # (up to T, A)
    state: np.ndarray
    written: str = ""
    chosen: str = ""
    hits: int = 0
    tokens: int = 0


def next_token(model, pictures, prompt, text):
    views = Views(pictures[None], torch.ones(1, len(pictures), dtype=torch.bool))
    tokens = (torch.tensor([ids], dtype=torch.long) for ids in (prompt, text))
    prompt, text = (Tokens(ids, torch.ones_like(ids, dtype=torch.bool)) for ids in tokens)
    return int(model.next_token(views, prompt, text).argmax())


@pytest.fixture(scope="module")
def frames(policy, dataset, episodes):
    return robot_frames(policy, dataset, episodes, EPISODES, STRIDE)


def robot_frames(policy, dataset, episodes, numbers, stride):
    """Every frame as the robot's engine sees it, one by one."""
    checkpoint = read_checkpoint(policy)
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    plain = load_model(checkpoint)
    engine = Pi05Engine(load_model(checkpoint), EngineOptions(end_token=tokenizer.eos_id))
    pictures = LeRobotDataset("local/x", root=dataset, video_backend="pyav", return_uint8=True)
    lengths = [len(episode.state) for episode in episodes]
    frames = []
    for number in numbers:
        episode = episodes[number]
        for k in range(0, lengths[number], stride):
            item = pictures[sum(lengths[:number]) + k]
            seen = [item[f"observation.images.{camera}"] for camera in ("wrist", "front")]
            fitted = torch.cat([fit_pictures(one[None], config.image_size) for one in seen])
            features = engine.encode(fitted)
            scaled = [
                2 * (float(x) - low) / (high - low) - 1
                for x, low, high in zip(episode.state[k], LOW, HIGH, strict=True)
            ]
            bins = state_bins(scaled + [0.0] * (config.max_state_dim - len(JOINTS)))
            noise = np.random.default_rng((SEED, number, k)).standard_normal(
                (SAMPLES, config.chunk, config.max_action_dim), np.float32
            )

            def prompt(text):
                return [tokenizer.bos_id, *tokenizer.encode(text)]

            told = episode.subtasks[k] or episode.task
            drawn = engine.act(
                features, prompt(actor_prompt(told, bins, True)), noise=torch.from_numpy(noise)
            )
            mean, spread = np.array(LOW), np.array((0.7, 0.2, 0.03))
            frame = Frame(
                episode.task,
                episode.subtasks[k],
                drawn.actions[..., :3].double().numpy() * spread + mean,
                episode.action[k : k + config.chunk].astype(float),
                episode.state[k].astype(float),
            )
            if frame.recorded:
                ask = prompt(planner_prompt(episode.task, bins))
                target = [*tokenizer.encode(frame.recorded), tokenizer.eos_id]
                frame.written = tokenizer.decode(engine.plan(features, ask)).split("\n")[0]
                scores = engine.score(features, ask, [tokenizer.encode(t) for t in SUBTASKS])
                frame.chosen = SUBTASKS[int(scores.argmax())]
                frame.tokens = len(target)
                likeliest = [next_token(plain, fitted, ask, target[:n]) for n in range(len(target))]
                frame.hits = sum(
                    ours == theirs for ours, theirs in zip(likeliest, target, strict=True)
                )
            frames.append(frame)
    return frames


def chunks_of(frames, dataset_episodes, predictor):
    """(predicted, frame) by frame, in the joints' own units."""
    weights = 1 / np.array((0.7, 0.2, 0.03))
    for frame in frames:
        recorded = frame.actions
        n = len(recorded)
        if predictor == "policy":
            yield frame.drawn[0], frame
        elif predictor == "best sample":
            costs = [float((np.abs(c[:n] - recorded) * weights).mean()) for c in frame.drawn]
            yield frame.drawn[int(np.argmin(costs))], frame
        elif predictor == "hold":
            yield np.array([frame.state] * 8), frame
        else:
            steps = [
                [e.action[k:] for e in dataset_episodes if len(e.action) > k] for k in range(8)
            ]
            yield np.array([np.concatenate(step).mean(0, float) for step in steps]), frame


@pytest.mark.parametrize("predictor", ["policy", "best sample", "hold", "mean chunk"])
def test_action_errors_are_those_of_the_robots_engine_frame_by_frame(
    report, frames, episodes, predictor
):
    found = json.loads((report / "report.json").read_text())["actions"][predictor]
    spread = (0.7, 0.2, 0.03)
    errors = {
        (step, joint): [
            float(chunk[step, joint] - frame.actions[step, joint])
            for chunk, frame in chunks_of(frames, episodes, predictor)
            if step < len(frame.actions)
        ]
        for step in range(8)
        for joint in range(3)
    }
    for joint in range(3):
        of_joint = [errors[step, joint] for step in range(8)]
        every = [e for step in of_joint for e in step]
        for unit, scale in (("own", 1.0), ("normalised", spread[joint])):
            for name, mean in (("mae", mean_absolute), ("rmse", root_mean_square)):
                figures = found[unit]
                assert figures[name][joint] == pytest.approx(mean(every) / scale, rel=1e-4)
                for step, of_step in enumerate(of_joint):
                    expected = mean(of_step) / scale
                    assert figures[f"{name}_by_step"][step][joint] == pytest.approx(
                        expected, rel=1e-4
                    )


def mean_absolute(values):
    return sum(map(abs, values)) / len(values)


def root_mean_square(values):
    return math.sqrt(sum(value * value for value in values) / len(values))


def test_subtask_scores_are_those_of_the_robots_engine_frame_by_frame(report, frames):
    found = json.loads((report / "report.json").read_text())
    tasks = {None: found, **found["tasks"]}
    for task, part in tasks.items():
        planned = [f for f in frames if f.recorded and task in (None, f.task)]
        scores = part["subtasks"]
        assert scores["frames"] == len(planned)
        assert scores["written"] == sum(f.written == f.recorded for f in planned) / len(planned)
        assert scores["chosen"] == sum(f.chosen == f.recorded for f in planned) / len(planned)
        hits, tokens = (sum(getattr(f, name) for f in planned) for name in ("hits", "tokens"))
        assert scores["token_accuracy"] == pytest.approx(hits / tokens)
    assert 0 < found["subtasks"]["written"] < 1
    assert 0 < found["subtasks"]["token_accuracy"] < 1
    labels, confusion = found["subtasks"]["labels"], found["subtasks"]["confusion"]
    assert set(labels) == set(SUBTASKS)
    for name in ("written", "chosen"):
        for row, recorded in enumerate(labels):
            named = [getattr(f, name) for f in frames if f.recorded == recorded]
            counts = [named.count(label) for label in labels]
            assert confusion[name][row] == [*counts, len(named) - sum(counts)]


def test_tasks_are_reported_apart(report, frames):
    found = json.loads((report / "report.json").read_text())
    assert found["frames"] == len(frames)
    assert found["episodes"] == list(EPISODES)
    weights = 1 / np.array((0.7, 0.2, 0.03))
    for task, part in found["tasks"].items():
        ours = [frame for frame in frames if frame.task == task]
        assert part["frames"] == len(ours)
        errors = np.concatenate(
            [np.abs(f.drawn[0][: len(f.actions)] - f.actions) * weights for f in ours]
        )
        expected = errors.mean(0).mean()
        assert part["normalised_mae"]["policy"] == pytest.approx(expected, rel=1e-4)


def test_plots_show_something(report):
    for name in ("errors", "chunks", "subtasks"):
        page = cv2.imread(str(report / f"{name}.png"))
        assert min(page.shape[:2]) > 200
        assert 0.01 < (page < 250).any(axis=-1).mean() < 0.6
    assert sorted(path.name for path in report.iterdir()) == sorted(
        ["chunks.png", "errors.png", "report.json", "subtasks.png"]
    )


def test_what_a_planner_writes_behind_its_subtask_does_not_count(dataset, episodes, tmp_path):
    chunks = np.random.default_rng(0).normal(size=(40, CONFIG.chunk, len(JOINTS)))
    policy = train(tmp_path, dataset, 25, FastTokenizer.fit(chunks, vocabulary=100, scale=3.0))
    frames = [f for f in robot_frames(policy, dataset, episodes, [0], 1) if f.recorded]
    assert evaluate(policy, dataset, tmp_path / "out", "--episodes", "0") == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())["subtasks"]
    assert found["written"] == sum(f.written == f.recorded for f in frames) / len(frames) > 0
    # The end of a text is one of its tokens, and here the beginning of the actions is that end.
    right = sum(f.tokens for f in frames if f.written == f.recorded)
    assert found["token_accuracy"] * sum(f.tokens for f in frames) >= right


def test_chunks_are_shown_of_the_first_episode_up_to_its_end(policy, dataset, episodes):
    checkpoint = read_checkpoint(policy)
    recording = open_recording(checkpoint, dataset, [1, 2], 3)
    results = evaluate_policy(checkpoint, load_model(checkpoint), recording)
    assert [(shown.episode, shown.frame) for shown in results.shown] == [(1, 0), (1, 3)]
    for shown in results.shown:
        assert np.array_equal(shown.recorded, episodes[1].action[shown.frame :])


def test_batches_and_stride_change_no_chunk(policy, dataset, tmp_path):
    found = []
    for words in (["--batch-size", "1"], ["--batch-size", "7"], ["--stride", "4"]):
        out = tmp_path / words[-1]
        assert evaluate(policy, dataset, out, "--episodes", "1", *words) == 0
        found.append(json.loads((out / "report.json").read_text()))
    one, many, sparse = found
    for name in ("mae_by_step", "rmse_by_step"):
        ours, theirs = (np.array(f["actions"]["policy"]["own"][name], float) for f in (one, many))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert one["subtasks"] == many["subtasks"]
    assert sparse["frames"] == 1
    # The episode has 4 frames: its first chunk alone reaches the fourth step, and none the fifth.
    for f in (one, sparse):
        assert f["actions"]["policy"]["own"]["mae_by_step"][4:] == [[None] * 3] * 4
    ours, theirs = (f["actions"]["policy"]["own"]["mae_by_step"][3] for f in (one, sparse))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_without_subtasks_the_planner_is_left_out_and_that_is_said(policy, tmp_path, capsys):
    plain = make_dataset(tmp_path / "plain", make_episodes((5, 3), subtasks=False))
    assert evaluate(policy, plain, tmp_path / "out", "--episodes", "all") == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["subtasks"] is None
    assert all(task["subtasks"] is None for task in found["tasks"].values())
    assert "planner: left out" in capsys.readouterr().out
    assert not (tmp_path / "out" / "subtasks.png").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fps": 15}, ("15 frames per second", f"expected {FPS}")),
        ({"joints": ("pan", "lift", "wrist")}, ("grip.position)", "wrist.position)")),
        (
            {"joints": ("lift", "pan", "grip")},
            ("pan.position, lift.position", "lift.position, pan"),
        ),
        ({"cameras": {"front": CAMERAS["front"], "top": (32, 32)}}, ("'wrist'", "front, top")),
    ],
)
def test_a_dataset_of_another_robot_is_refused(policy, tmp_path, capsys, changes, said):
    other = make_dataset(tmp_path / "other", make_episodes((4, 4)), **changes)
    assert evaluate(policy, other, tmp_path / "out", "--episodes", "all") == 1
    error = capsys.readouterr().err
    assert error.startswith("vla-eval: ")
    assert error.count("\n") == 1
    for words in said:
        assert words in error
    assert not (tmp_path / "out").exists()


def test_a_policy_that_gives_no_numbers_is_refused(dataset, tmp_path, capsys):
    model = make_model()
    torch.nn.init.constant_(model.action_out_proj.weight, 3e38)
    broken = make_policy(tmp_path / "policy", model)
    assert evaluate(broken, dataset, tmp_path / "out", "--episodes", "1") == 1
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_old_report_is_gone_when_its_plots_cannot_be_replaced(
    policy, dataset, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    words = (policy, dataset, out, "--episodes", "1")
    assert evaluate(*words) == 0
    monkeypatch.setattr("vla_training.evaluation.policy_report.plot_chunks", full)
    assert evaluate(*words) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (out / "report.json").exists()
