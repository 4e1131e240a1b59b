# SPDX-License-Identifier: Apache-2.0
"""An energy model that is trained along with its policy."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from energy_recipe_samples import FAILED, WHOLE, make_robot, training_episodes
from recipe_samples import CHUNK, cli, logged, make_dataset
from safetensors.torch import load_file

from vla_nodes.models.energy_checkpoint import (
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
)
from vla_training.data.schema import Outcome
from vla_training.energy.energy_data import open_energy_sets
from vla_training.energy.energy_source import EnergySource
from vla_training.recipes.energy_joint import JointObjective
from vla_training.recipes.job import Prepared
from vla_training.recipes.train import main

OPTIONS = {"batch_size": 8, "ema": 0, "save_every": 2, "keep": 9, "decay": 6, "warmup": 3}


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return make_robot(tmp_path_factory.mktemp("joint"))


@pytest.fixture(scope="module")
def trained(robot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training. Not to be written to."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert cli(robot, out, "joint", "--energy", steps=6, validate_every=6, **OPTIONS) == 0
    return out


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"state/step-{step:08d}/model.safetensors")


def test_the_policy_becomes_what_it_becomes_without(trained, robot, tmp_path):
    assert cli(robot, tmp_path / "alone", "joint", steps=6, validate_every=6, **OPTIONS) == 0
    one, other = (
        load_file(run / "checkpoint/model.safetensors") for run in (trained, tmp_path / "alone")
    )
    assert all(torch.equal(one[name], other[name]) for name in other)
    same = ("train/text", "train/action", "train/gradient_norm", "validation/action")
    for name in (*same, "validation/loss"):  # by which patience ends a training
        assert logged(trained, name) == logged(tmp_path / "alone", name)


def test_the_energy_model_learns_once_the_warm_up_is_over(trained):
    two, four, six = (state(trained, step) for step in (2, 4, 6))
    names = {name for name in two if name.startswith("energy.")}
    assert names
    assert {name for name in two if not name.startswith(("energy.", "policy."))} == set()
    after = load_file(trained / "energy/model.safetensors")
    assert {f"energy.model.{name}" for name in after} == names
    moved = {name for name in names if not torch.equal(four[name], six[name])}
    assert moved == names
    assert any(not torch.equal(two[name], four[name]) for name in names)  # by the fourth step
    assert any(not torch.equal(two[name], six[name]) for name in two.keys() - names)


def test_nothing_of_it_moves_before(robot, tmp_path):
    options = {**OPTIONS, "warmup": 5, "save_every": 1}
    assert cli(robot, tmp_path / "run", "joint", "--energy", steps=6, **options) == 0
    first, fifth, sixth = (state(tmp_path / "run", step) for step in (1, 5, 6))
    names = {name for name in first if name.startswith("energy.")}
    assert all(torch.equal(first[name], fifth[name]) for name in names)
    assert not any(torch.equal(first[name], sixth[name]) for name in names)


def test_its_checkpoint_is_the_exported_policy_s_and_says_what_it_was_trained_on(trained, robot):
    checkpoint = read_energy_checkpoint(trained / "energy")
    check_policy(checkpoint, trained / "checkpoint")
    told = checkpoint.interface
    assert told.action_names == ("pan", "lift", "grip")
    assert (told.fps, told.chunk, told.split_seed) == (10.0, CHUNK, 0)
    assert told.shares == pytest.approx((0.8, 0.1, 0.1))
    assert told.episodes == training_episodes(robot)


def test_what_it_sees_are_the_contexts_that_the_policy_gives_later(trained, robot, tmp_path):
    """Its validation loss, from the contexts on disk, chunk by chunk."""
    model = load_energy_model(read_energy_checkpoint(trained / "energy"))
    source = EnergySource(trained / "checkpoint", (robot / "data",), tmp_path)
    items = open_energy_sets(source, 0, (0.8, 0.1, 0.1), ("validation",)).validation
    assert len(items) == WHOLE == 13
    losses = []
    for rows in (range(8), range(8, 13)):  # of the batches of 8 frames, those with whole chunks
        for own in rows:
            hidden = items[own].hidden[None].float()
            with torch.no_grad():
                energies = [float(model(hidden, items[one].actions[None])) for one in rows]
            logits = -np.array(energies) / 0.5
            losses.append(np.log(np.exp(logits).sum()) - logits[own - rows[0]])
    found = logged(trained, "validation/energy")[6]
    assert np.mean(losses) == pytest.approx(found, rel=2e-4)  # contexts on disk are bfloat16
    assert np.std(losses) > 5e-4


def test_chunks_that_were_not_recorded_whole_or_failed_are_no_examples():
    batch = SimpleNamespace(
        action_is_pad=torch.tensor([[False, False], [False, True], [False, False], [False] * 2]),
        outcome=torch.tensor([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNKNOWN]),
    )
    policy = SimpleNamespace(
        weights={"action": 2.0}, prepare=lambda *_: Prepared("inputs", {"action": 7})
    )
    objective = JointObjective(policy)
    made = objective.prepare(batch, [], torch.device("cpu"))
    assert made.inputs[0] == "inputs"
    assert made.inputs[1].tolist() == [0, 3]
    assert made.counts == {
        **{"action": 7, "energy": 2, "energy_accuracy": 2, "positive_energy": 2},
        "negative_energy": 2,
    }
    assert objective.weights == {"action": 2.0, "energy": 1.0}


def test_steps_without_a_whole_chunk_teach_nothing(robot, tmp_path):
    data = make_dataset(tmp_path / "data", 6, CHUNK - 1, failed={FAILED})
    words = ("--energy", "--dataset", str(data))
    assert cli(robot, tmp_path / "run", "joint", *words, steps=2, **OPTIONS) == 0
    assert set(logged(tmp_path / "run", "train/energy").values()) == {0.0}
    assert set(logged(tmp_path / "run", "train/energy_gradient_norm").values()) == {0.0}


def test_a_policy_that_runs_wild_is_told_in_one_line(robot, tmp_path, capsys):
    options = {**OPTIONS, "warmup": 0, "learning_rate": 1e30}
    assert cli(robot, tmp_path / "run", "joint", "--energy", steps=3, **options) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vla-train: hidden states of the energy model: ")


def test_an_expert_alone_can_be_trained_with_it(trained, robot, tmp_path):
    out = tmp_path / "run"
    init = trained / "checkpoint"
    assert cli(robot, out, "expert", "--energy", "--lora", "2", init=init, steps=2, **OPTIONS) == 0
    check_policy(read_energy_checkpoint(out / "energy"), out / "checkpoint")


def test_a_resumed_training_is_the_uninterrupted_one(trained, tmp_path):
    parts = shutil.copytree(trained, tmp_path / "parts")
    for left in ("checkpoint", "energy", "state/step-00000006"):
        shutil.rmtree(parts / left)
    assert main(["policy", "--resume", "--out", str(parts)]) == 0
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = (run / "state/step-00000006" / file for run in (trained, parts))
        assert one.read_bytes() == other.read_bytes()
    for file in ("energy/model.safetensors", "energy/energy.json"):
        assert (trained / file).read_bytes() == (parts / file).read_bytes()


def test_a_training_from_before_there_was_such_an_option_is_resumed(robot, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli(robot, run, "joint", steps=1) == 0
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    known = {name: value for name, value in settings.items() if "energy" not in name}
    assert known != settings
    (run / "settings.yaml").write_text(yaml.safe_dump(known))
    assert main(["policy", "--resume", "--out", str(run)]) == 0
    assert main(["policy", "--resume", "--out", str(run), "--energy"]) == 1
    assert "was begun with energy False, not True" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("planner", {}, "mode planner trains no expert, whose chunks --energy judges"),
        ("joint", {"batch_size": 4, "accumulate": 4}, "batch_size is 4 in 4 parts"),
        ("joint", {"energy_learning_rate": 0}, "energy_learning_rate is 0.0"),
        ("joint", {"energy_clip": "inf"}, "energy_clip is inf"),
        ("joint", {"split_seed": 2**31 + 1}, "split_seed is 2147483649, expected from 0"),
    ],
)
def test_bad_input_is_told_in_one_line(robot, tmp_path, capsys, mode, changes, message):
    assert cli(robot, tmp_path / "run", mode, "--energy", **changes) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert error[-1].startswith("vla-train: ")
