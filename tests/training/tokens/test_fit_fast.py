# SPDX-License-Identifier: Apache-2.0
"""vla-fit-fast on a dataset that LeRobot wrote, against chunks put together frame by frame."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_training.data.loading.episode_split import split_episodes
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.fit_fast import fit_fast, main

JOINTS = ["pan", "lift", "gripper"]
LENGTHS = [40, 25, 31, 6, 38, 45]
CHUNK = 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make(tmp_path_factory.mktemp("fast") / "dataset")


def make(root, change=lambda action: action):
    vector = {"dtype": "float32", "shape": (3,), "names": JOINTS}
    written = LeRobotDataset.create(
        "a/b", 10, {"observation.state": vector, "action": vector}, root=root, use_videos=False
    )
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        phase, size = rng.uniform(0, 6, 3), np.array([1.0, 0.3, 0.04])
        for frame in range(length):
            action = (size * np.sin(0.2 * frame + phase)).astype(np.float32)
            row = {"observation.state": action, "action": change(action.copy()), "task": "wave"}
            written.add_frame(row)
        written.save_episode()
    written.finalize()
    return root


def frames_of(root):
    return pd.concat([pd.read_parquet(file) for file in sorted((root / "data").rglob("*.parquet"))])


def chunks_by_hand(root, episodes):
    frames = frames_of(root)
    chunks = []
    for episode in episodes:
        actions = np.stack(frames[frames.episode_index == episode].action.tolist())
        for start in range(len(actions)):
            chunk = [actions[min(start + t, len(actions) - 1)] for t in range(CHUNK)]
            chunks.append(chunk)
    return np.array(chunks, np.float64)


def quantiles(root, seed):
    frames = frames_of(root)
    training = frames[frames.episode_index.isin(split_episodes(len(LENGTHS), seed).train)]
    actions = np.stack(training.action.tolist()).astype(np.float64)
    return np.quantile(actions, 0.01, axis=0), np.quantile(actions, 0.99, axis=0)


def normalised(root, chunks, seed):
    low, high = quantiles(root, seed)
    return (chunks - low) / (high - low) * 2 - 1


def run(dataset, out, *options):
    return main([str(dataset), "--out", str(out), "--chunk", str(CHUNK), *options])


def test_it_is_fitted_to_the_chunks_of_the_training_episodes(dataset, tmp_path):
    assert run(dataset, tmp_path / "fast", "--vocabulary", "300") == 0
    train = chunks_by_hand(dataset, split_episodes(len(LENGTHS), 0).train)
    by_hand = FastTokenizer.fit(normalised(dataset, train, 0), 300, 10.0)
    by_hand.write(tmp_path / "by_hand")
    fitted = FastTokenizer.read(tmp_path / "fast")
    assert fitted.settings == by_hand.settings
    assert fitted.bpe.get_vocab() == by_hand.bpe.get_vocab()


@pytest.mark.parametrize("scale", ["10", "40"])
def test_what_it_prints_is_measured_on_episodes_held_out(dataset, tmp_path, capsys, scale):
    assert run(dataset, tmp_path / "fast", "--scale", scale, "--seed", "3") == 0
    printed = capsys.readouterr().out
    tokenizer = FastTokenizer.read(tmp_path / "fast")
    episodes = split_episodes(len(LENGTHS), 3).validation
    chunks = chunks_by_hand(dataset, episodes)
    assert f"measured on {len(chunks)} of {len(episodes)} others" in printed

    inputs = normalised(dataset, chunks, 3)
    tokens = [tokenizer.encode(chunk) for chunk in inputs]
    counts = [len(one) for one in tokens]
    assert f"mean {np.mean(counts):.1f}, p95" in printed
    assert f"max {max(counts)}\n" in printed
    low, high = quantiles(dataset, 3)
    errors = np.array([tokenizer.decode(one) for one in tokens]) - inputs
    errors = np.abs(errors) * (high - low) / 2
    for place, joint in enumerate(JOINTS):
        mean, most = map(float, re.search(rf"{joint} +(\S+) +(\S+)", printed).groups())
        assert mean == pytest.approx(errors[..., place].mean(), rel=0.01)
        assert most == pytest.approx(errors[..., place].max(), rel=0.01)


def test_a_larger_scale_is_more_exact(dataset, tmp_path, capsys):
    means = []
    for scale in ("5", "20", "80"):
        assert run(dataset, tmp_path / scale, "--scale", scale, "--vocabulary", "3000") == 0
        means.append(float(re.search(r"pan +(\S+)", capsys.readouterr().out).group(1)))
    assert means[0] > 2 * means[1] > 4 * means[2]


def test_no_picture_is_read(dataset, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    info = json.loads((copy / "meta/info.json").read_text())
    video = {"dtype": "video", "shape": [8, 8, 3], "names": ["height", "width", "channels"]}
    info["features"]["observation.images.front"] = video  # there is no such file
    (copy / "meta/info.json").write_text(json.dumps(info))
    assert run(copy, tmp_path / "fast") == 0


def still(action):
    action[0] = 0.5
    return action


class FarBetween:
    """One action in 150 is a thousand times as far."""

    def __init__(self):
        self.count = 0

    def __call__(self, action):
        self.count += 1
        return action if self.count % 150 else action + np.float32(1e4)


@pytest.mark.parametrize(
    ("change", "text"),
    [(still, "'pan' has no spread"), (FarBetween(), "too few for coefficients")],
)
def test_actions_of_no_use_are_one_error(tmp_path, capsys, change, text):
    odd = make(tmp_path / "odd", change)
    capsys.readouterr()
    assert run(odd, tmp_path / "fast") == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"vla-fit-fast: .*{text}.*\n", error)
    assert not (tmp_path / "fast").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--scale", "0"), "scale is 0"), (("--vocabulary", "5"), "5 tokens are too few")],
)
def test_options_of_no_use_are_one_error(dataset, tmp_path, capsys, options, text):
    assert run(dataset, tmp_path / "fast", *options) == 1
    assert text in capsys.readouterr().err
    assert not (tmp_path / "fast").exists()


def test_a_chunk_of_no_action_is_an_error(dataset, tmp_path, capsys):
    assert main([str(dataset), "--out", str(tmp_path / "fast"), "--chunk", "0"]) == 1
    assert "chunk is 0, expected at least 1" in capsys.readouterr().err


def test_what_is_there_is_not_overwritten(dataset, tmp_path, capsys):
    assert run(dataset, tmp_path) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_large_dataset_is_thinned_evenly(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("vla_training.tokens.fit_fast._FITTED", 5 * CHUNK * len(JOINTS))
    printed = fit_fast(dataset, tmp_path / "fast", CHUNK, 1024, 10.0, 0)
    assert "fitted to 5 chunks of 4 episodes" in printed
