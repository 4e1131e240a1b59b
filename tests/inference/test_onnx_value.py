# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from runtime_samples import CAMERAS, TEXTS, by_hand, pictures, write_value

from vla_nodes.inference.value_runtime import load_value_runtime
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_checkpoint import load_value_model, read_value_checkpoint
from vla_training.export.export import main

BATCH = 2
CASES = [
    ("cross-attention", 1, "fp32"),
    ("stitched", 2, "fp32"),
    ("cross-attention", 2, "fp16"),
    ("stitched", 1, "fp16"),
]
NEAR = {"fp32": 1e-4, "fp16": 0.01}  # of probabilities; float16 has three digits


type Case = tuple[str, int, str]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """Folders of value functions with their graphs, not to be written to."""
    root = tmp_path_factory.mktemp("exported")

    @cache
    def export(case: Case) -> Path:
        folder = write_value(root / "-".join(map(str, case)), *case[:2])
        assert main(["value", str(folder), "--batch", str(BATCH), "--precision", case[2]]) == 0
        return folder

    return export


@pytest.fixture
def folder(exported: Callable[[Case], Path]) -> Path:
    """The first of them."""
    return exported(CASES[0])


@pytest.mark.parametrize("case", CASES)
def test_estimates_are_those_of_the_model_in_torch(exported, case: Case) -> None:
    folder, (_, history, precision) = exported(case), case
    runtime = load_value_runtime(folder, "onnxruntime", "cpu", CAMERAS, half=precision == "fp16")
    shown = pictures(2 * history, seed=1)
    features = [one for picture in shown for one in runtime.encode([picture])]
    views = {"wrist": features[history:], "front": features[:history]}
    found = runtime.estimate(views, TEXTS)
    assert found.dtype == np.float32
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the text is read
    expected = by_hand(folder, shown, TEXTS)
    np.testing.assert_allclose(found, expected, atol=NEAR[precision])

    del views["front"]  # a camera that is absent
    absent = [None] * history + shown[history:]
    np.testing.assert_allclose(
        runtime.estimate(views, TEXTS), by_hand(folder, absent, TEXTS), atol=NEAR[precision]
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_texts_and_pictures_goes_through_graphs_of_two(
    folder: Path, count: int
) -> None:
    runtime = load_value_runtime(folder, "onnxruntime", "cpu", CAMERAS)
    shown = pictures(count, seed=2)
    features = runtime.encode(shown)
    assert len(features) == count
    texts = [f"grasp cube {number}" for number in range(count)]
    found = runtime.estimate({"front": features[-1:]}, texts)
    expected = by_hand(folder, [shown[-1], None], texts)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert runtime.encode([]) == []


def test_what_does_not_fit_is_refused_as_in_torch(folder: Path) -> None:
    runtime = load_value_runtime(folder, "onnxruntime", "cpu", CAMERAS)
    (features,) = runtime.encode(pictures(1))
    with pytest.raises(ValueError, match=r"\(8, 8\) uint8, expected \(H, W, 3\)"):
        runtime.encode([np.zeros((8, 8), np.uint8)])
    with pytest.raises(ValueError, match=r"'top' is unknown.*front, wrist"):
        runtime.estimate({"top": [features]}, TEXTS)
    with pytest.raises(ValueError, match="'front' has 2 pictures, expected 1"):
        runtime.estimate({"front": [features, features]}, TEXTS)
    with pytest.raises(ValueError, match="there is no camera"):
        runtime.estimate({}, TEXTS)
    with pytest.raises(ValueError, match="task is empty"):
        runtime.estimate({"front": [features]}, [" "])
    with pytest.raises(RuntimeError, match="no numbers"):
        runtime.estimate({"front": [features * np.nan]}, TEXTS)


def test_devices_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="'abacus' is unknown to ONNX Runtime, expected cpu"):
        load_value_runtime(folder, "onnxruntime", "abacus", CAMERAS, half=False)
    for device, provider in (("cuda", "CUDA"), ("tensorrt:0", "Tensorrt")):
        if f"{provider}ExecutionProvider" not in onnxruntime.get_available_providers():
            with pytest.raises(CheckpointError, match=f"{provider}ExecutionProvider, found"):
                load_value_runtime(folder, "onnxruntime", device, CAMERAS, half=False)


def test_graphs_that_were_never_exported_are_named_with_the_command(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=f"vla-export value {folder} --precision fp16 --cameras 2"
    ):
        load_value_runtime(folder, "onnxruntime", "cpu", CAMERAS, half=True)


def test_graphs_for_other_cameras_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is for 2 cameras, expected 1; .*--cameras 1"):
        load_value_runtime(folder, "onnxruntime", "cpu", ["front"])


def test_graphs_of_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "value")
    trained = write_value(tmp_path / "trained", "cross-attention", seed=1)
    shutil.copy(trained / "model.safetensors", copied)
    with pytest.raises(CheckpointError, match=r"other weights than .*export it again"):
        load_value_runtime(copied, "onnxruntime", "cpu", CAMERAS)


def _about(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "onnx.json").read_text())
        change(about)
        (folder / "onnx.json").write_text(json.dumps(about))

    return damage


def _other_graph(folder: Path) -> None:
    shutil.copy(folder / "encoder.onnx", folder / "value.onnx")


FAULTS = {
    r"encoder\.onnx is missing": lambda folder: (folder / "encoder.onnx").unlink(),
    r"value\.onnx cannot be loaded": lambda folder: (folder / "value.onnx").write_bytes(b"\x08x"),
    r"value\.onnx takes pixels \[2, 3, 32, 32\], expected features \[2, 4, 32\]": _other_graph,
    r"features \[3, 4, 32\].*expected .*features \[2, 4, 32\]": _about(
        lambda about: about["shapes"].update(features=[3, 4, 32])
    ),
    r"ids \[3, 48\].*, expected .*ids \[2, 48\]": _about(
        lambda about: about["shapes"].update(ids=[3, 48])
    ),
    r"value\.onnx takes .*ids \[2, 48\].*expected .*ids \[3, 48\]": _about(
        lambda about: about.update(
            batch=3, shapes=about["shapes"] | {"ids": [3, 48], "id_mask": [3, 48]}
        )
    ),
    "batch is 0, expected a whole number": _about(lambda about: about.update(batch=0)),
    "shapes.mask is missing": _about(lambda about: about["shapes"].pop("mask")),
    "precision is 'fp16', expected fp32": _about(lambda about: about.update(precision="fp16")),
    r"onnx\.json is no JSON": lambda folder: (folder / "onnx.json").write_text("{"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_damaged_exports_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "value")
    FAULTS[text](copied / "onnx-fp32")
    with pytest.raises(CheckpointError, match=text):
        load_value_runtime(copied, "onnxruntime", "cpu", CAMERAS)


def test_the_checkpoint_still_loads_in_torch_beside_its_graphs(folder: Path) -> None:
    load_value_model(read_value_checkpoint(folder))
