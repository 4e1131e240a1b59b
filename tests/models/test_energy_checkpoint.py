# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of energy models, and what is said of those that cannot be used."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from energy_reference import make_energy_batch, make_energy_model
from safetensors.torch import load_file, save_file

from vla_nodes.models import checkpoint_folder, energy_checkpoint, weights
from vla_nodes.models.energy_calibration import EnergyCalibration, Threshold
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    load_energy_model,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_nodes.models.errors import CheckpointError

SHA = "0123456789abcdef" * 4
INTERFACE = EnergyInterface(SHA, ("pan", "lift", "grip"), 12.5, 20, 7, (0.8, 0.1, 0.1))
CALIBRATION = EnergyCalibration(
    0.05, Threshold(1.5, 100), {"reach": Threshold(0.75, 50)}, tuple(range(101))
)


def write(folder, model, **changes):
    parts = {"weights": model, "config": model.config, "interface": INTERFACE} | changes
    write_energy_checkpoint(folder, **parts)


@pytest.fixture(scope="module")
def model():
    return make_energy_model(pooling="attention", bounded=False, dropout=0.0)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("energies") / "energy"
    write(folder, model, calibration=CALIBRATION)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """One to damage."""
    return shutil.copytree(written, tmp_path / "energy")


def edit(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


# --- writing and reading ----------------------------------------------------------------------


def test_what_is_written_is_read_bit_by_bit(model, written):
    checkpoint = read_energy_checkpoint(written)
    assert checkpoint.folder == written
    assert checkpoint.config == model.config
    assert checkpoint.interface == INTERFACE
    assert checkpoint.calibration == CALIBRATION
    loaded = load_energy_model(checkpoint)
    assert not loaded.training
    assert_same_weights(loaded, model)
    hidden, ignore, actions = make_energy_batch(chunks=3)
    with torch.no_grad():
        assert torch.equal(loaded(hidden, actions, ignore), model(hidden, actions, ignore))


def test_what_it_was_trained_on_is_kept_and_may_be_unknown(model, tmp_path):
    episodes = tuple(f"{number:016x}" for number in range(60_000))  # more than a megabyte
    write(tmp_path / "a", model, interface=replace(INTERFACE, episodes=episodes))
    assert read_energy_checkpoint(tmp_path / "a").interface.episodes == episodes
    edit(tmp_path / "a" / "energy.json", episodes=...)
    assert read_energy_checkpoint(tmp_path / "a").interface == INTERFACE


@pytest.mark.parametrize(
    "changes",
    [{"form": "global"}, {"pooling": "attention"}, {"bounded": False}, {"dropout": 0.0}, {}],
)
def test_every_form_is_read_as_it_was_written(tmp_path, changes):
    model = make_energy_model(**changes)
    write(tmp_path / "a", model)
    checkpoint = read_energy_checkpoint(tmp_path / "a")
    assert checkpoint.config == model.config
    assert checkpoint.calibration is None
    assert_same_weights(load_energy_model(checkpoint), model)


def test_weights_in_bfloat16_are_loaded_in_float32(model, tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    write(tmp_path / "a", model, weights=halves)
    loaded = load_energy_model(read_energy_checkpoint(tmp_path / "a"))
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, halves[name].float()), name


def test_others_may_read_the_weights(written):
    files = [written / name for name in ("model.safetensors", "config.json")]
    assert files[0].stat().st_mode == files[1].stat().st_mode


# --- writing, interrupted or refused ----------------------------------------------------------


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (weights, "save_file"),
        (energy_checkpoint, "write_object"),
        (EnergyCalibration, "write"),
        (checkpoint_folder, "sync"),
        (checkpoint_folder, "_exchange"),
    ],
)
def test_an_interrupted_writing_leaves_what_was_there(folder, model, monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(folder, make_energy_model(seed=1), calibration=CALIBRATION)
    assert_same_weights(load_energy_model(read_energy_checkpoint(folder)), model)
    assert [path.name for path in folder.parent.iterdir()] == ["energy"]


def test_new_weights_leave_no_old_calibration(folder):
    other = make_energy_model(seed=1)
    write(folder, other)
    checkpoint = read_energy_checkpoint(folder)
    assert checkpoint.calibration is None
    assert_same_weights(load_energy_model(checkpoint), other)


def test_weights_that_are_no_numbers_do_not_replace_good_ones(folder, model):
    bad = model.state_dict() | {"pool.query": torch.full((16,), torch.nan)}
    words = r"energy: weights are not finite numbers: pool\.query"
    with pytest.raises(CheckpointError, match=words):
        write(folder, model, weights=bad)
    assert_same_weights(load_energy_model(read_energy_checkpoint(folder)), model)


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"something else than a checkpoint .*; name another"):
        write(tmp_path, model)
    assert (tmp_path / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interface": replace(INTERFACE, policy="abc")}, "policy is 'abc', expected a SHA-256"),
        ({"interface": replace(INTERFACE, fps=0.0)}, "fps is 0.0, expected a number above 0"),
        (
            {"interface": replace(INTERFACE, action_names=("pan",))},
            "energy.json: 1 action_names, expected 3, as config.json says",
        ),
        (
            {"calibration": replace(CALIBRATION, pooled=Threshold(float("inf"), 3))},
            "pooled.energy is inf, expected a finite number",
        ),
    ],
)
def test_what_could_not_be_read_is_not_written(model, tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        write(tmp_path / "a", model, **changes)
    assert f"{tmp_path / 'a'}/" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_replaced_before_it_is_loaded_is_not_mixed_with_the_new(folder):
    checkpoint = read_energy_checkpoint(folder)
    write(folder, make_energy_model(seed=1, pooling="attention", bounded=False, dropout=0.0))
    with pytest.raises(CheckpointError, match="was replaced while it was read; read it again"):
        load_energy_model(checkpoint)


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "energy.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read_energy_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none is no folder, nor OWNER/NAME"):
        read_energy_checkpoint(tmp_path / "none")


BIAS = "prediction_head.fc2.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({BIAS: None}, rf"1 missing: {BIAS}"),
        ({BIAS: torch.zeros(2)}, rf"1 wrong: {BIAS} is F32 \(2,\), expected .* \(1,\)"),
        ({BIAS: torch.zeros(1, dtype=torch.int8)}, rf"1 wrong: {BIAS} is I8 \(1,\)"),
        ({"extra.weight": torch.zeros(2)}, r"1 unexpected: extra\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_they_are_read(folder, change, words):
    file = folder / "model.safetensors"
    tensors = load_file(file) | change
    save_file({k: v for k, v in tensors.items() if v is not None}, file)
    with pytest.raises(CheckpointError, match=words):
        read_energy_checkpoint(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    file = folder / "model.safetensors"
    save_file(load_file(file) | {BIAS: torch.full((1,), torch.inf)}, file)
    with pytest.raises(CheckpointError, match=rf"not finite numbers: {BIAS}"):
        load_energy_model(read_energy_checkpoint(folder))


def test_weights_that_may_run_code_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt, which may run code"):
        read_energy_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_weights_cut_off_are_refused(folder, share):
    file = folder / "model.safetensors"
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut off"):
        read_energy_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "vla_value"}, "type is 'vla_value', expected 'vla_energy': this is no energy"),
        ({"type": ...}, "type is None, expected 'vla_energy': this is no energy model"),
        ({"state_dim": ...}, "state_dim is missing"),
        ({"state_dim": 0}, "state_dim is 0, expected a whole number from 1"),
        ({"action_dim": 3.0}, "action_dim is 3.0, expected a whole number from 1"),
        ({"hidden": 10**9}, "hidden is 1000000000, expected a whole number from 1 to"),
        ({"hidden": 18}, "hidden is 18, expected it even and a multiple of 4 heads"),
        ({"heads": True}, "heads is True, expected a whole number from 1"),
        ({"dropout": ...}, "dropout is None, expected a number from 0 to less than 1"),
        ({"dropout": 1}, "dropout is 1, expected a number from 0 to less than 1"),
        ({"dropout": 10**400}, "dropout is 1000.*, expected a number from 0 to less than 1"),
        ({"dropout": float("nan")}, "dropout is nan, expected a number from 0 to less than 1"),
        ({"form": "film"}, "form is 'film', expected tokens or global"),
        ({"form": "global"}, "the global form has one energy for a chunk: expected pooling mean"),
        ({"pooling": ["mean"]}, r"pooling is \['mean'\], expected mean or attention"),
        ({"bounded": 1}, "bounded is 1, expected true or false"),
        ({"layers": 4}, "layers is 4, expected no such key"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(folder, changes, words):
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"config\.json: {words}") as caught:
        read_energy_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "mean"}, "weights do not fit the model: .* 5 unexpected: pool.attention"),
        ({"state_dim": 13}, "3 wrong: state_linear.fc1.weight"),
        ({"action_dim": 4}, "3 action_names, expected 4, as config.json says"),
    ],
)
def test_a_configuration_of_another_model_is_refused(folder, changes, words):
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        read_energy_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": ...}, "policy is None, expected a SHA-256 in hexadecimal digits"),
        ({"policy": SHA[1:]}, "policy is '123.*, expected a SHA-256 in hexadecimal digits"),
        ({"policy": "z" * 64}, "policy is 'zzz.*, expected a SHA-256 in hexadecimal digits"),
        ({"policy": 64 * [1]}, r"policy is \[1, .*, expected a SHA-256 in hexadecimal digits"),
        ({"action_names": None}, "action_names is None, expected names of one joint at least"),
        ({"action_names": []}, r"action_names is \[\], expected names of one joint at least"),
        ({"action_names": ["a", "a", "b"]}, "action_names is .*, expected no name twice"),
        ({"action_names": "pan"}, "action_names is 'pan', expected a list of texts"),
        ({"fps": 0}, "fps is 0, expected a number above 0"),
        ({"fps": float("nan")}, "fps is nan, expected a number above 0"),
        ({"chunk": 0}, "chunk is 0, expected a whole number from 1"),
        ({"chunk": ...}, "chunk is missing"),
        ({"episodes": None}, "episodes is None, expected a list of 16 hexadecimal digits each"),
        ({"episodes": ["0" * 15]}, "episodes is .*, expected a list of 16 hexadecimal digits"),
        ({"episodes": {"0" * 16: 1}}, "episodes is .*, expected a list of 16 hexadecimal digits"),
        ({"split_seed": -1}, "split_seed is -1, expected a whole number from 0"),
        ({"shares": ...}, "shares is missing"),
        ({"shares": [0.8, 0.2]}, r"shares is \[0.8, 0.2\], expected three numbers from 0 to 1"),
        ({"shares": [0.8, 0.1, 0.2]}, "shares is .*, expected three numbers .* that sum to 1"),
        ({"shares": [10**400, 0, 0]}, "shares is .*, expected three numbers from 0 to 1"),
        ({"episodes": "0" * 16}, "episodes is '0.*, expected a list of 16 hexadecimal digits each"),
        ({"episodes": ["z" * 16]}, r"episodes is \['z.*, expected a list of 16 hexadecimal digits"),
        ({"episodes": [7]}, r"episodes is \[7\], expected a list of 16 hexadecimal digits each"),
        ({"robot": "arm"}, "robot is 'arm', expected no such key"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(folder, changes, words):
    edit(folder / "energy.json", **changes)
    with pytest.raises(CheckpointError, match=rf"energy\.json: {words}") as caught:
        read_energy_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "energy.json", "calibration.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} (is no JSON|holds a list|cannot be read)"):
        read_energy_checkpoint(folder)
