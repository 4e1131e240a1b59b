# SPDX-License-Identifier: Apache-2.0
"""Reports against figures that are derived in loops from the dataset's columns."""

import json
import shutil

import cv2
import numpy as np
import pytest
from evaluation_samples import FPS, TASKS
from labelled_samples import make_checkpoint, make_labelled, recorded_frames
from safetensors.torch import load_file, save_file

from vla_nodes.models.value_checkpoint import read_value_checkpoint
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.loading.episode_split import split_episodes
from vla_training.evaluation.evaluate import main
from vla_training.evaluation.value_predictions import predict_values

LENGTHS = (9, 14, 7, 12, 8, 10, 13, 11, 9, 12)
OUTCOMES = "sfssfsfssf"
LABELS = Settings()
SHARES = [0.4, 0.2, 0.4]
ATOMS = -1 + 0.005 * np.arange(201)


def evaluate(checkpoint, dataset, *words):
    return main(["value", str(checkpoint), str(dataset), *words, "--workers", "0"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_labelled(tmp_path_factory.mktemp("set") / "data", LENGTHS, OUTCOMES, LABELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("value") / "value", LABELS, shares=SHARES)


@pytest.fixture(scope="module")
def report(dataset, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    assert evaluate(checkpoint, dataset, "--stride", "2", "--out", str(out)) == 0
    return out


def read(report):
    return json.loads((report / "report.json").read_text())


def test_the_stored_split_is_tested_on(report):
    expected = split_episodes(len(LENGTHS), 0, tuple(SHARES)).test
    assert read(report)["episodes"] == list(expected)
    assert read(report)["frames"] == sum((LENGTHS[episode] + 1) // 2 for episode in expected)


def test_figures_of_the_value_function_are_those_of_its_predictions(report, dataset, checkpoint):
    found, table = read(report), recorded_frames(dataset)
    predictions = predict_values(
        read_value_checkpoint(checkpoint), dataset, found["episodes"], stride=2, workers=0
    )
    by_task = {}
    for place, mass in enumerate(predictions.probabilities):
        here = (table.episode_index == predictions.episode[place]) & (
            table.frame_index == predictions.frame[place]
        )
        y = float(table.loc[here, "return"].iloc[0])
        below = min(199, int((y + 1) / 0.005))
        share = (y - ATOMS[below]) / 0.005
        loss = -(1 - share) * np.log(mass[below]) - share * np.log(mass[below + 1])
        task = TASKS[predictions.episode[place] % 2]
        by_task.setdefault(task, []).append((loss, abs(mass @ ATOMS - y)))
    parts = {**{task: found["tasks"][task] for task in by_task}, None: found["predictors"]}
    for task, figures in parts.items():
        rows = by_task[task] if task else [row for rows in by_task.values() for row in rows]
        loss, error = np.mean(rows, axis=0)
        assert figures["value function"]["loss"] == pytest.approx(loss, rel=1e-4)
        assert figures["value function"]["mae"] == pytest.approx(error, abs=1e-5)
        assert figures["value function"]["frames"] == len(rows)


def test_the_constant_is_made_of_the_training_split_alone(report, dataset):
    found, table = read(report), recorded_frames(dataset)
    split = split_episodes(len(LENGTHS), 0, tuple(SHARES))
    uniform = found["baselines"]["constant"]["uniform"]
    errors = []
    for episode in split.test:
        same_task = [e for e in split.train if e % 2 == episode % 2]
        trained = table.loc[table.episode_index.isin(same_task), "return"]
        mean = (1 - uniform) * trained.mean() + uniform * -0.5
        rows = (table.episode_index == episode) & (table.frame_index % 2 == 0)
        errors += (table.loc[rows, "return"] - mean).abs().tolist()
    # Mass that is smoothed beyond an end of the support comes back inside, a little off.
    found = found["predictors"]["constant"]["mae"]
    assert found == pytest.approx(np.mean(errors), abs=5e-3)


def test_every_predictor_has_every_figure(report):
    found = read(report)
    assert list(found["predictors"]) == ["value function", "elapsed time", "constant"]
    assert found["labels"]["mode"] == "per_task"
    for figures in found["predictors"].values():
        assert len(figures["calibration"]) == len(found["levels"]) == 9
        assert 0 <= figures["separation"]["last_quarter"] <= 1
        assert 0 <= figures["ordered"] <= 1
    assert set(found["tasks"]) == set(TASKS)


def test_the_table_holds_value_function_and_baselines(dataset, checkpoint, capsys):
    assert evaluate(checkpoint, dataset, "--episodes", "all") == 0
    out = capsys.readouterr().out
    for words in ("loss (nat)", "MAE", "top-5", "AUC of the last quarter", "constant", *TASKS):
        assert words in out
    assert "6 successful and 4 failed episodes" in out


def test_plots_show_something(report):
    names = ["calibration.png", "report.json", "values.png"]
    assert sorted(path.name for path in report.iterdir()) == names
    for name in ("calibration", "values"):
        page = cv2.imread(str(report / f"{name}.png"))
        assert 0.01 < (page < 250).any(axis=-1).mean() < 0.6


def test_one_class_only_says_that_there_is_no_area(checkpoint, tmp_path, capsys):
    every = make_labelled(tmp_path / "data", (8, 9, 10, 7), "ssss", LABELS)
    words = ("--episodes", "all", "--out", str(tmp_path / "out"))
    assert evaluate(checkpoint, every, *words) == 0
    assert "no AUC: no failure among 4 episodes" in capsys.readouterr().out
    assert read(tmp_path / "out")["predictors"]["constant"]["separation"]["final"] is None


def test_episodes_of_unknown_outcome_are_left_out_and_that_is_said(tmp_path, capsys):
    lengths, outcomes = (8, 9, 10, 7, 6, 8), "sfusfs"
    skipped = Settings(unknown="skip")
    some = make_labelled(tmp_path / "skipped", lengths, outcomes, skipped)
    value = make_checkpoint(tmp_path / "value", LABELS)
    assert evaluate(value, some, "--episodes", "all") == 0
    assert "10 frames have no label and were left out" in capsys.readouterr().out
    counted = Settings(unknown="failure")
    some = make_labelled(tmp_path / "counted", lengths, outcomes, counted)
    assert evaluate(value, some, "--episodes", "all") == 0
    assert "1 episodes of unknown outcome" in capsys.readouterr().out


def refused(capsys, *words):
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("vla-eval: ")
    for word in words:
        assert word in error
    return True


def test_a_dataset_without_labels_is_refused(checkpoint, tmp_path, capsys):
    plain = make_labelled(tmp_path / "data", (4, 5, 6), "ssf")
    assert evaluate(checkpoint, plain, "--out", str(tmp_path / "out")) == 1
    assert refused(capsys, "has no labels", "vla-label")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(coefficient=0.5), ("coefficient 0.5", "expected mode per_task, coefficient 1.0")),
        (Settings(mode="global"), ("mode global, max_steps 500", "expected mode per_task")),
    ],
)
def test_other_labels_than_the_checkpoint_was_trained_on_are_refused(
    checkpoint, tmp_path, capsys, settings, said
):
    other = make_labelled(tmp_path / "data", (4, 5, 6), "ssf", settings)
    assert evaluate(checkpoint, other) == 1
    assert refused(capsys, *said, "vla-label --replace")


def test_settings_that_returns_do_not_follow_from_may_differ(checkpoint, tmp_path):
    same = make_labelled(tmp_path / "data", (4, 5, 6, 7), "ssfs", Settings(max_steps=7, horizon=2))
    assert evaluate(checkpoint, same) == 0


def test_fewer_than_three_episodes_are_refused(checkpoint, tmp_path, capsys):
    few = make_labelled(tmp_path / "data", (4, 5), "sf", LABELS)
    assert evaluate(checkpoint, few, "--episodes", "all") == 1
    assert refused(capsys, "2 episodes cannot be split", "at least 3 are needed")


def test_a_training_split_without_labels_is_refused(tmp_path, capsys):
    train = split_episodes(4, 0, (0.5, 0.25, 0.25)).train
    outcomes = "".join("u" if episode in train else "s" for episode in range(4))
    some = make_labelled(tmp_path / "data", (4, 5, 6, 7), outcomes, Settings(unknown="skip"))
    value = make_checkpoint(tmp_path / "value", LABELS, shares=[0.5, 0.25, 0.25])
    assert evaluate(value, some) == 1
    assert refused(capsys, "no episode of the train part", "baselines")
    assert evaluate(value, some, "--episodes", str(train[0])) == 1
    assert refused(capsys, "no frame of these episodes has a label")


def test_a_value_function_that_gives_no_numbers_is_refused(dataset, tmp_path, capsys):
    value = make_checkpoint(tmp_path / "value", LABELS)
    weights = load_file(value / "model.safetensors")
    last = [name for name in weights if name.startswith("head.") and weights[name].ndim == 2][-1]
    weights[last] = weights[last].sign() * 3e38
    save_file(weights, value / "model.safetensors", {"format": "pt"})
    assert evaluate(value, dataset, "--out", str(tmp_path / "out")) == 1
    assert refused(capsys, "not finite")
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_aligned_only_is_refused(dataset, checkpoint, tmp_path, capsys):
    value = shutil.copytree(checkpoint, tmp_path / "value")
    (value / "value.json").unlink()
    assert evaluate(value, dataset) == 1
    assert refused(capsys, "aligned only")


def test_another_rate_is_refused(dataset, tmp_path, capsys):
    value = make_checkpoint(tmp_path / "value", LABELS, fps=30.0)
    assert evaluate(value, dataset) == 1
    assert refused(capsys, f"{FPS} frames per second", "expected 30")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--episodes", "split:tset"), "expected all, split:train"),
        (("--episodes", "3,99"), "names 99"),
        (("--stride", "0"), "--stride is 0"),
        (("--batch-size", "0"), "--batch-size is 0"),
    ],
)
def test_words_that_make_no_sense_are_refused(dataset, checkpoint, capsys, words, said):
    assert evaluate(checkpoint, dataset, *words) == 1
    assert refused(capsys, said)


def test_an_old_report_is_gone_when_its_plots_cannot_be_replaced(
    dataset, checkpoint, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    words = ("--stride", "4", "--out", str(tmp_path))
    assert evaluate(checkpoint, dataset, *words) == 0
    monkeypatch.setattr("vla_training.evaluation.value_report.plot_values", full)
    assert evaluate(checkpoint, dataset, *words) == 1
    assert refused(capsys, "No space left on device")
    assert not (tmp_path / "report.json").exists()
