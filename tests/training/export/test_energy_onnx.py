# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from vla_nodes.models.checkpoint import load_model, read_checkpoint, write_checkpoint
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    load_energy_model,
    policy_digest,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_nodes.models.energy_config import EnergyConfig
from vla_training.export import energy_onnx
from vla_training.export.export import main

FORMS: list[dict[str, Any]] = [
    {},
    {"form": "global"},
    {"pooling": "attention", "bounded": False},
]
CANDIDATES = 3
JOINTS = ("pan", "lift", "elbow", "flex", "roll", "gripper")


def write(folder: Path, policy: Path, **changes: Any) -> Path:
    size = read_checkpoint(policy).config
    config = EnergyConfig(size.language.width, len(JOINTS), hidden=16, heads=2, **changes)
    torch.manual_seed(0)
    model = EnergyModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that energies lie far apart
            parameter.normal_(std=0.5)
    digest = policy_digest(policy)
    interface = EnergyInterface(digest, JOINTS, 20.0, size.chunk, 0, (0.8, 0.1, 0.1))
    write_energy_checkpoint(folder, model, config, interface)
    return folder


class Graphs:
    def __init__(self, folder: Path) -> None:
        self.context, self.energy = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in ("context.onnx", "energy.onnx")
        )

    def __call__(self, hidden: np.ndarray, ignore: np.ndarray, actions: np.ndarray) -> np.ndarray:
        (features,) = self.context.run(None, {"hidden": hidden, "ignore": ignore})
        inputs = {"features": features, "ignore": ignore, "actions": actions}
        return self.energy.run(None, inputs)[0]


@pytest.mark.parametrize("changes", FORMS)
def test_graphs_judge_as_the_model_and_ignore_what_fills_a_context_up(
    tmp_path: Path, pi05_folder: Path, capsys: pytest.CaptureFixture[str], changes: dict
) -> None:
    folder = write(tmp_path / "energy", pi05_folder, **changes)
    arguments = ["energy", str(folder), "--policy", str(pi05_folder), "--format", "onnx"]
    assert main([*arguments, "--candidates", str(CANDIDATES)]) == 0
    said = capsys.readouterr()
    size = read_checkpoint(pi05_folder).config
    tokens = 2 * size.image_tokens + size.max_prompt_tokens
    assert f"{tokens} tokens, 3 chunks of 20 actions" in said.out
    assert said.err == ""

    graphs = Graphs(folder / "onnx-fp32")
    model = load_energy_model(read_energy_checkpoint(folder))
    random = np.random.default_rng(0)
    apart = []
    for length in (5, 40, tokens):
        hidden = random.normal(size=(tokens, size.language.width)).astype(np.float32)
        actions = random.normal(size=(CANDIDATES, 20, 6)).astype(np.float32)
        with torch.no_grad():  # of the exact length, without a mask
            context = model.context(torch.from_numpy(hidden[None, :length]))
            expected = model.energies(context, torch.from_numpy(actions[None]))[0].numpy()
        apart.append(float(np.ptp(expected)))
        found = graphs(hidden, np.arange(tokens) >= length, actions)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert max(apart) > 0.01  # a hundred times what is tolerated


def test_graphs_are_whole_and_take_one_shape_only(tmp_path: Path, pi05_folder: Path) -> None:
    folder = write(tmp_path / "energy", pi05_folder)
    assert main(["energy", str(folder), "--policy", str(pi05_folder), "--candidates", "2"]) == 0
    about = json.loads((folder / "onnx-fp32" / "onnx.json").read_text())
    shapes = {}
    for name in ("context.onnx", "energy.onnx"):
        file = folder / "onnx-fp32" / name
        onnx.checker.check_model(str(file), full_check=True)
        assert str(Path.cwd()).encode() not in file.read_bytes()  # says nothing of this machine
        graph = onnx.load(file).graph
        for one in graph.input:
            shapes[one.name] = [dim.dim_value for dim in one.type.tensor_type.shape.dim]
    assert about["precision"] == "fp32"
    assert shapes == about["shapes"]
    assert shapes["actions"] == [2, 20, 6]

    graphs = Graphs(folder / "onnx-fp32")
    given = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    given["ignore"] = np.zeros(shapes["ignore"], bool)
    for name, other in (("hidden", (7, 32)), ("actions", (1, 20, 6)), ("actions", (2, 19, 6))):
        changed = given | {name: np.zeros(other, np.float32)}
        with pytest.raises(Exception, match=f"invalid dimensions for input: {name}"):
            graphs(changed["hidden"], changed["ignore"], changed["actions"])


def test_an_export_that_differs_leaves_the_one_before_alone(
    tmp_path: Path,
    pi05_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write(tmp_path / "energy", pi05_folder)
    arguments = ["energy", str(folder), "--policy", str(pi05_folder)]
    assert main(arguments) == 0
    before = (folder / "onnx-fp32" / "onnx.json").read_bytes()
    monkeypatch.setattr(energy_onnx, "MOST_DIFFERENCE", -1.0)
    assert main([*arguments, "--candidates", "2"]) == 1
    assert "energies differ by" in capsys.readouterr().err
    assert (folder / "onnx-fp32" / "onnx.json").read_bytes() == before
    assert not [path for path in folder.iterdir() if "partial" in path.name]


def test_what_cannot_be_exported_is_refused_in_words(
    tmp_path: Path, pi05_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "energy", pi05_folder)
    policy = ["--policy", str(pi05_folder)]
    for arguments, text in (
        ([str(folder), *policy, "--candidates", "0"], "candidates is 0, expected 1 to 64"),
        ([str(folder), *policy, "--candidates", "65"], "candidates is 65, expected 1 to 64"),
        ([str(tmp_path / "none"), *policy], "is no folder"),
        ([str(pi05_folder), *policy], "this is no energy model"),
        ([str(folder), "--policy", str(folder)], "config.json"),
    ):
        assert main(["energy", *arguments]) == 1
        assert text in capsys.readouterr().err
    assert not (folder / "onnx-fp32").exists()


def test_the_energy_model_of_another_policy_is_refused(
    tmp_path: Path, pi05_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "energy", pi05_folder)
    interface = folder / "energy.json"
    content = json.loads(interface.read_text())
    interface.write_text(json.dumps(content | {"policy": "0" * 64}))
    assert main(["energy", str(folder), "--policy", str(pi05_folder)]) == 1
    assert "trained with another policy" in capsys.readouterr().err


def test_a_policy_that_does_not_say_what_it_sees_is_refused(
    tmp_path: Path, pi05_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, silent = read_checkpoint(pi05_folder), tmp_path / "silent"
    write_checkpoint(silent, load_model(old), old.config, None, old.normalization, old.tokenizer)
    folder = write(tmp_path / "energy", silent)
    assert main(["energy", str(folder), "--policy", str(silent)]) == 1
    assert "does not say which cameras its policy sees" in capsys.readouterr().err
