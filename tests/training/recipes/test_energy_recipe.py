# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe_samples
import torch
from energy_recipe_samples import FAILED, WHOLE, energy_cli, make_robot, training_episodes
from recipe_samples import CHUNK, logged, make_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vla_nodes.models.energy_checkpoint import (
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
)
from vla_training.data.loading.episode_split import split_episodes
from vla_training.energy.contexts import Contexts
from vla_training.energy.energy_data import open_energy_sets
from vla_training.energy.energy_source import EnergySource
from vla_training.recipes.run_state import newest_state, read_about
from vla_training.recipes.train import main

SHARES = (0.8, 0.1, 0.1)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to, but for ``contexts``."""
    return make_robot(tmp_path_factory.mktemp("energy"))


@pytest.fixture(scope="module")
def trained(robot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a training by loss. Not to be written to."""
    found = {}
    for loss in ("swap", "explicit", "hinge"):
        found[loss] = tmp_path_factory.mktemp("trained") / loss
        options = {"loss": loss, "steps": 60, "validate_every": 20, "learning_rate": 3e-3}
        assert energy_cli(robot, found[loss], "--negatives", "noise", "joints", **options) == 0
    return found


def open_validation(robot: Path):
    source = EnergySource(robot / "policy/checkpoint", (robot / "data",), robot / "contexts")
    return open_energy_sets(source, 0, SHARES, ("validation",)).validation


@pytest.mark.parametrize("loss", ["swap", "explicit", "hinge"])
def test_expert_chunks_come_to_have_lower_energies_than_others(trained, loss):
    def means(name):
        values = list(logged(trained[loss], name).values())
        return np.mean(values[:10]), np.mean(values[-10:])

    for name in ("auroc_noise", "auroc_joints", "energy_accuracy"):
        first, last = means(f"train/{name}")
        assert first < last - 0.1
    first, last = means("train/energy")
    assert last < 0.9 * first
    positive, negative = (means(f"train/{one}_energy")[1] for one in ("positive", "negative"))
    assert 0.1 < positive < negative - 0.3
    best = read_about(newest_state(trained[loss] / "state"))["best validation loss"]
    found = logged(trained[loss], "validation/energy")
    assert len(found) == 3
    assert best == pytest.approx(min(found.values()), rel=1e-5)


def test_the_checkpoint_is_the_policy_s_and_says_what_it_was_trained_on(trained, robot):
    checkpoint = read_energy_checkpoint(trained["swap"] / "checkpoint")
    check_policy(checkpoint, robot / "policy/checkpoint")
    told = checkpoint.interface
    assert told.action_names == ("pan", "lift", "grip")
    assert (told.fps, told.chunk, told.split_seed, told.shares) == (10.0, CHUNK, 0, SHARES)
    assert told.episodes == training_episodes(robot)
    assert checkpoint.config.hidden == 32
    assert checkpoint.calibration is None
    assert {p.name for p in trained["swap"].iterdir()} == {
        *("checkpoint", "state", "logs", "settings.yaml")
    }


def test_the_weights_of_the_lowest_validation_loss_are_kept(robot, tmp_path):
    """Every chunk is held against every context by itself, in float64."""
    run = tmp_path / "run"
    options = {"steps": 9, "validate_every": 3, "learning_rate": 3e-2, "tau": 0.7}
    assert energy_cli(robot, run, "--negatives", **options) == 0
    model = load_energy_model(read_energy_checkpoint(run / "checkpoint"))
    items = open_validation(robot)
    assert len(items) == WHOLE
    mixed = np.random.default_rng(0).permutation(len(items)).tolist()
    losses = []
    for rows in (mixed[:8], mixed[8:]):
        for own in rows:
            hidden = items[own].hidden[None].float()
            with torch.no_grad():
                energies = [float(model(hidden, items[one].actions[None])) for one in rows]
            logits = -np.array(energies) / 0.7
            losses.append(np.log(np.exp(logits).sum()) - logits[rows.index(own)])
    found = logged(run, "validation/loss")
    assert len(set(found.values())) == 3
    assert np.mean(losses) == pytest.approx(min(found.values()), rel=1e-4)


def test_failed_episodes_teach_only_where_they_are_asked_for(robot, tmp_path):
    assert FAILED in split_episodes(6, 0).train
    for words, episodes in (((), 3), (("--failures",), 4)):
        run = tmp_path / f"run{episodes}"
        assert energy_cli(robot, run, *words, steps=1) == 0
        assert read_about(newest_state(run / "state"))["items"] == episodes * WHOLE


def test_every_kind_of_negative_can_be_learnt_from(robot, tmp_path):
    kinds = ("noise", "shift", "reversed", "joints", "other-task", "layers", "samples")
    run = tmp_path / "run"
    assert energy_cli(robot, run, "--negatives", *kinds, steps=2, far=0.01, samples=2) == 0
    for kind in kinds:
        assert all(0.0 < area < 1.0 for area in logged(run, f"train/auroc_{kind}").values())


def test_the_policy_looks_at_each_frame_once(robot, tmp_path, capsys):
    options = {"contexts": tmp_path / "contexts", "steps": 1}
    assert energy_cli(robot, tmp_path / "one", **options) == 0
    frames = 4 * WHOLE  # of three successful training episodes and one of validation
    assert f"the policy saw {frames} frames" in capsys.readouterr().err
    assert energy_cli(robot, tmp_path / "other", form="global", seed=1, **options) == 0
    assert "the policy saw" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--negatives",), ("--no-bounded", "--bf16", "--loss", "swap-both")]
)
def test_a_resumed_training_is_the_uninterrupted_one(robot, tmp_path, words):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = {"steps": 6, "save_every": 3, "keep": 9, "validate_every": 2}
    for out in (whole, parts):
        assert energy_cli(robot, out, *words, **options) == 0
    shutil.rmtree(parts / "state/step-00000006")
    shutil.rmtree(parts / "checkpoint")
    assert main(["energy", "--resume", "--out", str(parts)]) == 0
    for file in ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"):
        one, other = (out / "state/step-00000006" / file for out in (whole, parts))
        assert one.read_bytes() == other.read_bytes()
    assert logged(parts, "train/loss") == logged(whole, "train/loss")


def test_what_was_interrupted_before_its_first_step_is_resumed(robot, tmp_path, monkeypatch):
    run, contexts = tmp_path / "run", tmp_path / "contexts"
    with monkeypatch.context() as patch:
        patch.setattr(Contexts, "fill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert energy_cli(robot, run, contexts=contexts, steps=1) == 130
    assert main(["energy", "--resume", "--out", str(run)]) == 0
    assert newest_state(run / "state").name == "step-00000001"
    assert main(["energy", "--resume", "--out", str(tmp_path / "other")]) == 1


def test_no_area_is_logged_of_negatives_that_are_nowhere(robot, tmp_path):
    run = tmp_path / "run"
    words = ("--negatives", "shift", "noise")
    assert energy_cli(robot, run, *words, shift=1000, steps=2, validate_every=1) == 0
    events = EventAccumulator(str(run / "logs/training"))
    found = {name for name in events.Reload().Tags()["scalars"] if "auroc" in name}
    assert found == {"train/auroc_noise", "validation/auroc_noise"}


def test_a_training_is_resumed_with_the_same_policy_and_data_only(robot, tmp_path, capsys):
    def resumed(**changes):
        words = [w for name, value in changes.items() for w in (f"--{name}", str(value))]
        return main(["energy", "--resume", "--out", str(tmp_path / "run"), *words])

    assert energy_cli(robot, tmp_path / "run", steps=1) == 0
    moved = shutil.copytree(robot, tmp_path / "moved")
    assert resumed(policy=moved / "policy/checkpoint", dataset=moved / "data") == 0
    assert resumed(tau=0.1) == 1
    assert "was begun with tau 0.5, not 0.1" in capsys.readouterr().err
    other = make_dataset(tmp_path / "data", 6, 20, seed=1, failed={FAILED})
    assert resumed(dataset=other) == 1
    assert "is of another training: chunks was" in capsys.readouterr().err
    changed = json.loads((moved / "policy/checkpoint/normalization.json").read_text())
    changed["action"]["q01"][0] -= 0.01
    (moved / "policy/checkpoint/normalization.json").write_text(json.dumps(changed))
    assert resumed(policy=moved / "policy/checkpoint") == 1
    assert "is of another training: policy was" in capsys.readouterr().err


def test_other_tasks_need_another_text(robot, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe_samples, "SUBTASKS", ("reach", "reach"))
    options = {"dataset": make_dataset(tmp_path / "data", 6, 20), "contexts": tmp_path / "contexts"}
    assert energy_cli(robot, tmp_path / "run", "--negatives", "other-task", **options) == 1
    assert "all training frames are of 'reach'" in capsys.readouterr().err


def test_weights_that_run_wild_are_told_in_one_line(robot, tmp_path, capsys):
    assert energy_cli(robot, tmp_path / "run", "--no-bounded", learning_rate=1e30, ema=0) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vla-train: ")
    assert "energy" in error
    assert "nan" in error or "inf" in error


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ((), {"policy": "no/such/policy"}, "no folder"),
        ((), {"dataset": "no/such/data"}, "no/such/data"),
        ((), {"stride": 0}, "stride is 0"),
        ((), {"validation": 0}, "validation is 0.0, expected a share"),
        ((), {"split_seed": -1}, "split_seed is -1, expected from 0"),
        ((), {"heads": 3}, "hidden is 32, expected it even and a multiple of 3 heads"),
        ((), {"form": "global", "pooling": "attention"}, "expected pooling mean"),
        ((), {"tau": 0}, "tau is 0.0"),
        ((), {"margin": "nan"}, "margin is nan"),
        ((), {"noise": 0}, "noise is 0.0"),
        ((), {"shift": 0}, "shift is 0"),
        ((), {"samples": 0}, "samples is 0"),
        ((), {"batch_size": 4, "accumulate": 4}, "expected 2 in each"),
        (("--negatives", "noise", "noise"), {}, "expected each kind once"),
        (("--negatives",), {"loss": "hinge"}, "learns from nothing but --negatives"),
    ],
)
def test_bad_input_is_told_in_one_line(robot, tmp_path, capsys, words, changes, message):
    assert energy_cli(robot, tmp_path / "run", *words, **changes) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert error[-1].startswith("vla-train: ")
    assert not (tmp_path / "run/checkpoint").exists()


def test_options_are_parsed_without_torch():
    code = "import sys, vla_training.recipes.train; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
