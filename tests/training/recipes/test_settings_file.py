# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
import yaml
from recipe_samples import cli

from vla_training.recipes.energy_settings import EnergyDataSettings, EnergySettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.recipes.settings_file import defaults, flat, with_files, write_settings
from vla_training.recipes.value_settings import (
    StitchedSettings,
    ValueDataSettings,
    ValueModelSettings,
)


def words(path, *argv):
    return with_files(["--config", str(path), *argv], PolicySettings)


def test_options_of_a_file_come_before_those_of_the_command_line(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("steps: 5\naugment: false\ndataset: [a, b]\nlearning_rate: 1e-3\n")
    found = words(path, "--steps", "7")
    assert found[:8] == [
        *("--steps", "5", "--no-augment", "--dataset", "a", "b", "--learning-rate", "1e-3"),
    ]
    assert found[-2:] == ["--steps", "7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "'stepz' is no option"),
        ("resume: true", "'resume' is no option"),
        ("loop: {steps: 3}", "'loop' is no option"),
        ("steps: {a: 1}", "steps is .*expected a value or a list"),
        ("[1, 2]", "holds list, expected options by name"),
        ("steps: [", "cannot be read"),
        ("steps: 2026-13-45", "cannot be read"),
        ("steps: !!timestamp x", "cannot be read"),
        ("steps: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("a: " + "x" * 70_000, "too large"),
    ],
)
def test_files_that_are_no_settings_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message) as error:
        words(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"no\.yaml is missing"):
        words(tmp_path / "no.yaml")


def test_settings_that_were_written_give_the_same_settings(tmp_path, sample, monkeypatch):
    seen = []
    monkeypatch.setattr("vla_training.recipes.policy.train_policy", lambda s: seen.append(s) or "")
    assert cli(sample, tmp_path, "joint", "--no-insulate", "--cameras", "wrist", max_delay=2) == 0
    write_settings(tmp_path, seen[0])
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text()) == flat(seen[0])
    from vla_training.recipes.train import main

    for words in (
        ["--config", str(tmp_path / "settings.yaml")],
        ["--resume", "--out", str(tmp_path)],
    ):
        assert main(["policy", *words]) == 0
        assert flat(seen[-1]) == flat(seen[0])


@pytest.mark.parametrize(
    ("mode", "words", "message"),
    [
        ("planner-fast", [], "needs --fast"),
        ("expert", [], "need --init"),
        ("joint", ["--lora", "4"], "need --init"),
        ("joint", ["--alpha", "0"], "alpha is 0"),
        ("planner", ["--lora-expert"], "needs a rank"),
        ("joint", ["--flow-samples", "0"], "flow_samples is 0"),
        ("joint", ["--advantage-dropout", "2"], "advantage_dropout is 2"),
        ("joint", ["--stride", "0"], "stride is 0"),
        ("planner-fast", ["--normalization", "mean_std", "--fast", "f"], "scaled by quantiles"),
        ("joint", ["--dataset"], "no dataset is given"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path, sample, capsys, mode, words, message
):
    assert cli(sample, tmp_path, mode, *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_options_that_were_emptied_stay_so(tmp_path):
    settings = StitchedSettings(
        arch="stitched",
        out=tmp_path,
        data=ValueDataSettings(dataset=(Path("data"),)),
        model=ValueModelSettings(tokenizer=Path("tokenizer")),
        epochs=None,
    )
    write_settings(tmp_path, settings)
    found = with_files(["--out", str(tmp_path), "--resume"], StitchedSettings)
    assert tyro.cli(StitchedSettings, args=found) == replace(settings, resume=True)


def test_options_with_a_default_are_told_as_settings_are(tmp_path):
    least = EnergySettings(
        tmp_path, EnergyDataSettings(policy=Path("policy"), dataset=(Path("data"),))
    )
    needed = {"out": str(tmp_path), "policy": "policy", "dataset": ["data"]}
    assert {**needed, **defaults(EnergySettings)} == flat(least)
