# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vla_training.recipes import run_state
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.run_state import (
    checksum,
    newest_state,
    read_about,
    read_part,
    write_state,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])}


def write(folder, step, keep=2):
    write_state(folder, step, {"model": WEIGHTS}, {"items": 7}, keep)


def test_what_was_written_is_read(tmp_path):
    write(tmp_path, 12)
    state = newest_state(tmp_path)
    assert read_about(state) == {"step": 12, "items": 7}
    read = read_part(state, "model", WEIGHTS)
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def test_only_the_newest_states_stay(tmp_path):
    for step in (5, 10, 20, 100):
        write(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]


def test_no_file_is_a_pickle(tmp_path):
    write(tmp_path, 1)
    assert {p.suffix for p in tmp_path.glob("*/*")} == {".json", ".safetensors"}


def test_a_writer_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_state, "publish", full)
    with pytest.raises(TrainingError, match=r"cannot be written.*No space left"):
        write(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_writer_left_is_no_state(tmp_path):
    write(tmp_path, 3)
    (tmp_path / ".step-00000004.123").mkdir()
    assert newest_state(tmp_path).name == "step-00000003"
    write(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    assert newest_state(tmp_path / "none") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checksum_tells_weights_that_differ_in_one_bit(dtype):
    weights = {"a": torch.randn(50, 4).to(dtype), "b": torch.randn(3, 5).to(dtype).T}
    copy = {name: tensor.clone() for name, tensor in weights.items()}
    assert checksum(copy) == checksum(weights)
    copy["a"][7, 2] = torch.nextafter(copy["a"][7, 2], torch.tensor(9.0, dtype=dtype))
    assert checksum(copy) != checksum(weights)
    assert checksum({"a": weights["a"], "c": weights["b"]}) != checksum(weights)


def test_a_state_of_another_model_is_refused(tmp_path):
    write(tmp_path, 1)
    state = newest_state(tmp_path)
    for expected, message in (
        ({**WEIGHTS, "b": torch.zeros(2)}, r"b is \(1,\), expected \(2,\)"),
        ({**WEIGHTS, "c": torch.zeros(2)}, r"c is missing, expected \(2,\)"),
        ({"b": WEIGHTS["b"]}, r"a.weight is \(2, 3\), expected missing"),
    ):
        with pytest.raises(TrainingError, match=message):
            read_part(state, "model", expected)


@pytest.mark.parametrize("content", [b"", b"not at all", b"\x10" * 8])
def test_a_damaged_file_is_named(tmp_path, content):
    write(tmp_path, 1)
    state = newest_state(tmp_path)
    (state / "model.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"model.safetensors cannot be read"):
        read_part(state, "model", WEIGHTS)
    (state / "state.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"state.json"):
        read_about(state)
