# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a folder is said before the libraries that take long are loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CODE = """
import json, sys
from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.inference import PolicyError, PolicyOptions, backends
try:
    options = PolicyOptions(**json.loads(sys.argv[3]))
    make = getattr(backends, sys.argv[1])
    make(load_contract(find_contract("sim_arm")), sys.argv[2], "cpu", options)
except PolicyError as error:
    print(error)
assert not {"torch", "transformers", "lerobot"} & set(sys.modules)
"""


def complaint(make: str, folder: str, **options: object) -> str:
    command = [sys.executable, "-c", CODE, make, folder, json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("make", ["make_pi05", "make_lerobot"])
def test_no_folder_is_named_at_once(make: str, tmp_path: Path) -> None:
    assert "it needs a checkpoint" in complaint(make, "")
    assert f"there is no folder '{tmp_path}/none'" in complaint(make, f"{tmp_path}/none")


def test_another_camera_is_named_at_once(
    act_folder: Path, pi05_folder: Path, tmp_path: Path
) -> None:
    for make, folder in (("make_lerobot", act_folder), ("make_pi05", pi05_folder)):
        copy = shutil.copytree(folder, tmp_path / make)
        config = json.loads((copy / "config.json").read_text())
        features = config["input_features"]
        features["observation.images.top"] = features.pop("observation.images.wrist")
        (copy / "config.json").write_text(json.dumps(config))
        assert "top" in complaint(make, str(copy))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "damaged or cut off"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
        (lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{"), "is no tokenizer"),
    ],
)
def test_damage_is_named_at_once(
    pi05_folder: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    copy = shutil.copytree(pi05_folder, tmp_path / "pi05")
    harm(copy)
    assert words in complaint("make_pi05", str(copy))


def test_an_option_that_cannot_be_had_is_named_at_once(act_folder: Path, pi05_folder: Path) -> None:
    words = complaint("make_lerobot", str(act_folder), candidates=8)
    assert "takes no 'candidates'; found 8" in words
    words = complaint("make_pi05", str(pi05_folder), guidance=2.0)
    assert "guidance is 2, but the policy was not trained with advantages" in words
    words = complaint("make_pi05", str(pi05_folder), energy=str(act_folder))
    assert f"{act_folder} was not calibrated" in words


@pytest.mark.parametrize(("make", "said"), [("make_pi05", ""), ("make_lerobot", "2")])
def test_pytorch_leaves_a_processor_to_the_other_nodes(
    make: str, said: str, act_folder: Path, pi05_folder: Path
) -> None:
    code = """
import sys
from unittest.mock import MagicMock
from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.inference import PolicyOptions, backends
for name in ("pi05_policy", "lerobot_policy"):
    sys.modules[f"vla_nodes.inference.{name}"] = MagicMock()
contract = load_contract(find_contract("sim_arm"))
getattr(backends, sys.argv[1])(contract, sys.argv[2], "cpu", PolicyOptions())
assert "torch" not in sys.modules
import torch
print(torch.get_num_threads())
"""
    folder = {"make_pi05": pi05_folder, "make_lerobot": act_folder}[make]
    unset = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    chosen = {"OMP_NUM_THREADS": said} if said else {}
    done = subprocess.run(
        [sys.executable, "-c", code, make, str(folder)],
        env=unset | {"OMP_DISPLAY_ENV": "TRUE"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = said or str(max(1, len(os.sched_getaffinity(0)) - 1))
    assert done.stdout.strip() == expected
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
