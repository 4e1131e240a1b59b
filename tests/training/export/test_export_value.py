# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import ValueInterface, write_value_checkpoint
from vla_nodes.models.value_config import ARCHS, tiny
from vla_nodes.models.value_model import make_value_model
from vla_training.export import value_onnx
from vla_training.export.export import main
from vla_training.export.half_precision import HalfLinear, halve


def write(folder: Path, interface: bool = True) -> Path:
    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    torch.manual_seed(0)
    config = replace(tiny("cross-attention"), history=2)
    trained = ValueInterface(("front", "wrist"), 10.0, ("reach",), 0, (0.8, 0.1, 0.1), {})
    write_value_checkpoint(
        folder,
        make_value_model(config),
        config,
        trained if interface else None,
        Tokenizer(tokenizer),
    )
    return folder


def test_graphs_are_whole_and_of_the_shapes_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "value")
    assert main(["value", str(folder), "--cameras", "1", "--batch", "3"]) == 0
    said = capsys.readouterr()
    assert "1 cameras, 2 frames of each, 3 texts, float32" in said.out
    assert said.err == ""
    shapes = {}
    for name in ("encoder.onnx", "value.onnx"):
        file = folder / "onnx-fp32" / name
        onnx.checker.check_model(str(file), full_check=True)
        assert str(Path.cwd()).encode() not in file.read_bytes()  # says nothing of this machine
        graph = onnx.load(file).graph
        for one in (*graph.input, *graph.output):
            dims = one.type.tensor_type.shape.dim
            shapes[name, one.name] = tuple(dim.dim_value for dim in dims)
    assert shapes == {
        ("encoder.onnx", "pixels"): (1, 3, 32, 32),
        ("encoder.onnx", "features"): (1, 4, 32),
        ("value.onnx", "features"): (2, 4, 32),
        ("value.onnx", "mask"): (2,),
        ("value.onnx", "ids"): (3, 48),
        ("value.onnx", "id_mask"): (3, 48),
        ("value.onnx", "logits"): (3, 201),
    }

    # A second export that goes wrong leaves the first alone, and nothing of its own.
    before = (folder / "onnx-fp32" / "onnx.json").read_bytes()
    monkeypatch.setitem(value_onnx.MOST_DIFFERENCE, "fp32", -1.0)
    assert main(["value", str(folder), "--cameras", "2"]) == 1
    assert "probabilities differ by" in capsys.readouterr().err
    assert (folder / "onnx-fp32" / "onnx.json").read_bytes() == before
    assert not [path for path in folder.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cameras", "3"], "cameras is 3 and batch 1, expected 1 to 2 and 1 to 64"),
        (["--cameras", "0"], "cameras is 0"),
        (["--batch", "0"], "batch 0"),
    ],
)
def test_impossible_shapes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    folder = write(tmp_path / "value")
    assert main(["value", str(folder), *arguments]) == 1
    assert text in capsys.readouterr().err
    assert not (folder / "onnx-fp32").exists()


def test_what_is_no_value_function_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["value", str(tmp_path / "none")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert main(["value", str(write(tmp_path / "aligned", interface=False))]) == 1
    assert "aligned only" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_sums_that_overflow_float16_do_not_matter_between_layers(arch: str) -> None:
    torch.manual_seed(0)
    model = make_value_model(tiny(arch)).eval()
    # As in Gemma 3 itself, whose sums between layers reach some 100,000.
    model.language.embed_tokens.weight.mul_(50.0)
    for layer in model.language.layers:
        layer.post_feedforward_layernorm.weight.fill_(50_000.0)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    ids = torch.randint(5, 200, (1, 12))
    if arch == "stitched":
        ids[:, 1:5] = model.config.image_id
    there = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 12, dtype=torch.bool)

    def probabilities(model: torch.nn.Module) -> torch.Tensor:
        return model(model.encode(pixels)[None], there[0], ids, there[1]).softmax(-1)

    expected = probabilities(model)
    plain = copy.deepcopy(model).half()
    plain.head.float()
    assert not probabilities(plain).isfinite().all()  # else this test tests nothing
    halve(model)
    found = probabilities(model)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    kinds = {type(module) for module in model.language.modules()}
    assert HalfLinear in kinds
    assert torch.nn.Linear not in kinds
