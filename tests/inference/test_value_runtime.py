# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runtime_samples import CAMERAS, TEXTS, by_hand, pictures, write_value

from vla_nodes.inference.value_runtime import ValueRuntime, load_value_runtime
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_config import ARCHS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    root = tmp_path_factory.mktemp("values")
    return {
        (arch, history): write_value(root / f"{arch}-{history}", arch, history)
        for arch in ARCHS
        for history in (1, 2)
    }


@pytest.fixture(scope="module")
def runtime(folders: dict[tuple[str, int], Path]) -> ValueRuntime:
    return load_value_runtime(folders["cross-attention", 1], "torch", "cpu", CAMERAS)


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("arch", ARCHS)
def test_estimates_are_those_of_the_model(folders, arch: str, history: int) -> None:
    folder = folders[arch, history]
    runtime = load_value_runtime(folder, "torch", "cpu", CAMERAS)
    shown = pictures(2 * history)
    features = runtime.encode(shown)
    views = {"wrist": features[history:], "front": features[:history]}
    found = runtime.estimate(views, TEXTS)
    assert found.shape == (2, 201)
    assert found.dtype == np.float32
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the text is read
    np.testing.assert_allclose(found, by_hand(folder, shown, TEXTS), atol=1e-5)


@pytest.mark.parametrize("absent", CAMERAS)
@pytest.mark.parametrize("arch", ARCHS)
def test_an_absent_camera_is_as_one_that_is_not_there(folders, arch: str, absent: str) -> None:
    folder = folders[arch, 1]
    (picture,) = pictures(1)
    expected = by_hand(folder, [None if name == absent else picture for name in CAMERAS], TEXTS)
    there = next(name for name in CAMERAS if name != absent)
    for cameras in (CAMERAS, (there,)):  # absent now, or for good
        runtime = load_value_runtime(folder, "torch", "cpu", cameras)
        found = runtime.estimate({there: runtime.encode([picture])}, TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cameras_may_be_named_in_any_order(folders) -> None:
    folder, shown = folders["stitched", 1], pictures(2)
    runtime = load_value_runtime(folder, "torch", "cpu", ("wrist", "front"))
    features = runtime.encode(shown)
    found = runtime.estimate({"front": features[:1], "wrist": features[1:]}, TEXTS[:1])
    np.testing.assert_allclose(found, by_hand(folder, shown, TEXTS[:1]), atol=1e-5)


def test_half_precision_stays_near(folders) -> None:
    folder, shown = folders["cross-attention", 1], pictures(2)
    runtime = load_value_runtime(folder, "torch", "cpu", CAMERAS, half=True)
    features = runtime.encode(shown)
    assert features[0].dtype == torch.bfloat16
    found = runtime.estimate({"front": features[:1], "wrist": features[1:]}, TEXTS)
    np.testing.assert_allclose(found, by_hand(folder, shown, TEXTS), atol=0.02)


def test_pictures_that_cannot_be_written_to_are_taken(runtime: ValueRuntime) -> None:
    (picture,) = pictures(1)
    picture.flags.writeable = False
    assert len(runtime.encode([picture])) == 1
    assert runtime.encode([]) == []


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (np.zeros((8, 8), np.uint8), r"\(8, 8\) uint8, expected \(H, W, 3\) uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "float32, expected"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
    ],
)
def test_other_pictures_are_refused(runtime: ValueRuntime, picture, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        runtime.encode([picture])


def test_views_that_do_not_fit_are_refused(runtime: ValueRuntime) -> None:
    (features,) = runtime.encode(pictures(1))
    with pytest.raises(ValueError, match=r"'top' is unknown.*front, wrist"):
        runtime.estimate({"top": [features]}, TEXTS)
    with pytest.raises(ValueError, match="'front' has 2 pictures, expected 1"):
        runtime.estimate({"front": [features, features]}, TEXTS)
    with pytest.raises(ValueError, match=r"there is no camera.*front, wrist"):
        runtime.estimate({}, TEXTS)


def test_texts_that_say_nothing_are_refused(runtime: ValueRuntime) -> None:
    views = {"front": runtime.encode(pictures(1))}
    with pytest.raises(ValueError, match="task is empty"):
        runtime.estimate(views, ["grasp", " \n"])
    with pytest.raises(ValueError, match="2001 characters"):
        runtime.estimate(views, ["a" * 2001])
    with pytest.raises(ValueError, match="no text"):
        runtime.estimate(views, [])


def test_weights_that_overflow_are_noticed(tmp_path: Path) -> None:
    runtime = load_value_runtime(
        write_value(tmp_path / "v", "cross-attention"), "torch", "cpu", CAMERAS
    )
    (features,) = runtime.encode(pictures(1))
    with pytest.raises(RuntimeError, match="no numbers"):
        runtime.estimate({"front": [features * torch.nan]}, TEXTS)


@pytest.mark.parametrize(
    ("cameras", "text"),
    [
        (("front", "top"), "'top' is unknown.*front, wrist"),
        ((), "expected one or more of front, wrist"),
        (("front", "front"), "each once"),
    ],
)
def test_other_cameras_are_refused(folders, cameras: tuple[str, ...], text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        load_value_runtime(folders["stitched", 1], "torch", "cpu", cameras)


def test_engines_and_devices_that_are_not_there_are_refused(folders) -> None:
    folder = folders["stitched", 1]
    with pytest.raises(CheckpointError, match="'tflite', expected torch or onnxruntime"):
        load_value_runtime(folder, "tflite", "cpu", CAMERAS)
    with pytest.raises(CheckpointError, match="device 'abacus' cannot be used"):
        load_value_runtime(folder, "torch", "abacus", CAMERAS)


def _other_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type": "vla_pi05"}))


def _other_cameras(folder: Path) -> None:
    interface = json.loads((folder / "value.json").read_text())
    (folder / "value.json").write_text(json.dumps(interface | {"cameras": "front"}))


FAULTS = {
    "there is no folder": shutil.rmtree,
    "expected 'vla_value'": _other_type,
    "aligned only": lambda folder: (folder / "value.json").unlink(),
    "cameras is 'front', expected a list": _other_cameras,
    r"tokenizer\.json is missing": lambda folder: shutil.rmtree(folder / "tokenizer"),
    r"model\.safetensors is missing": lambda folder: (folder / "model.safetensors").unlink(),
    r"model\.safetensors is damaged": lambda folder: (folder / "model.safetensors").write_bytes(
        b"\x08" + bytes(15)
    ),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_damaged_folder_is_named_before_torch_loads(folders, tmp_path: Path, text: str) -> None:
    folder = shutil.copytree(folders["stitched", 1], tmp_path / "value")
    FAULTS[text](folder)
    with pytest.raises(CheckpointError, match=text):
        load_value_runtime(folder, "torch", "cpu", CAMERAS)


def test_a_faulty_folder_loads_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from vla_nodes.inference.value_runtime import load_value_runtime
try:
    load_value_runtime({str(tmp_path)!r}, "torch", "cpu", ["front"])
except ValueError as error:
    print(error)
print("torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fault, loaded = said.stdout.splitlines()
    assert "config.json is missing" in fault
    assert loaded == "False"
