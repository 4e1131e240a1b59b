# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, and what runs on the robot needs nothing from the workstation."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vla_nodes"

# What each room may import of this package and of the outside world beyond the standard library.
MAY_IMPORT = {
    "contract": ({"contract"}, {"yaml"}),
    "observation": ({"contract", "observation"}, {"numpy", "cv2"}),
    "control": ({"contract", "control"}, {"numpy"}),
    "models": (
        {"models"},
        {"numpy", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"},
    ),
    "inference": (
        {"contract", "observation", "models", "inference"},
        {"numpy", "torch", "safetensors", "huggingface_hub", "lerobot", "onnxruntime"},
    ),
    "sim": (
        {"contract", "observation", "inference", "sim"},
        {"numpy", "mujoco", "gymnasium"},
    ),
    "display": ({"contract", "display"}, {"numpy", "cv2", "av", "matplotlib", "rich"}),
    "bringup": ({"contract", "bringup"}, {"yaml", "tyro", "launch", "launch_ros"}),
    "monitoring": ({"monitoring"}, {"numpy"}),
    "recording": ({"contract", "recording"}, {"mcap", "rosbags", "yaml"}),
}
# Of the data rooms of the offline package, what lies before each of them.
DATA = ROOT / "training" / "vla_training" / "data"
DATA_MAY_IMPORT = {
    "bags": set(),
    "frames": {"bags"},
    "writing": set(),
    "conversion": {"bags", "frames", "writing"},
    "runs": {"bags", "frames", "writing", "conversion"},
    "checks": {"bags", "frames"},
    "labels": set(),
    "loading": {"bags", "labels"},
    "demonstrations": {"frames", "writing"},
    "vqa": set(),
}
ROS = {
    *("rclpy", "rcl_interfaces", "builtin_interfaces", "diagnostic_msgs", "lifecycle_msgs"),
    *("rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs"),
    *("action_msgs", "geometry_msgs", "visualization_msgs", "vla_interfaces"),
}


def imports(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    "room", sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__")
)
def test_a_room_imports_only_what_lies_before_it(room: str) -> None:
    if room == "nodes":
        rooms, libraries = {*MAY_IMPORT, "nodes"}, {"numpy", *ROS, "rich", "tyro"}
    else:
        rooms, libraries = MAY_IMPORT[room]
    for file in (PACKAGE / room).rglob("*.py"):
        for name in imports(file):
            top, *rest = name.split(".")
            if top == "vla_nodes":
                assert rest, f"{file} imports the whole package"
                assert rest[0] in rooms, f"{file} imports {name}"
            else:
                known = top in libraries or top in sys.stdlib_module_names
                assert known, f"{file} imports {name}"


@pytest.mark.parametrize(
    "room", sorted(p.name for p in DATA.iterdir() if p.is_dir() and p.name != "__pycache__")
)
def test_a_data_room_imports_only_what_lies_before_it(room: str) -> None:
    shared = {file.stem for file in DATA.glob("*.py")}
    for file in (DATA / room).rglob("*.py"):
        for name in imports(file):
            if name.startswith("vla_training.data."):
                of = name.split(".")[2]
                assert of in {room, *shared, *DATA_MAY_IMPORT[room]}, f"{file} imports {name}"
            assert name.partition(".")[0] not in ROS, f"{file} imports {name}"


@pytest.mark.parametrize(
    ("room", "later"),
    [
        ("tokens", ("policy_inputs", "energy", "recipes", "evaluation")),
        ("policy_inputs", ("energy", "recipes", "evaluation")),
        ("energy", ("recipes", "evaluation")),
    ],
)
def test_an_offline_room_imports_nothing_that_is_built_on_it(
    room: str, later: tuple[str, ...]
) -> None:
    for file in (DATA.parent / room).rglob("*.py"):
        for name in imports(file):
            of = name.removeprefix("vla_training.").split(".")[0]
            assert of not in later, f"{file} imports {name}"


def test_no_robot_code_imports_the_training_package() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not any(name.startswith("vla_training") for name in imports(file)), file


def test_only_one_backend_needs_lerobot() -> None:
    needing = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "lerobot" for name in imports(file))
    }
    assert needing == {"inference/lerobot_policy.py"}


def loaded(code: str, libraries: set[str]) -> list[str]:
    """Which of ``libraries`` a new Python has loaded after ``code``."""
    code = f"{code}\nimport sys\nprint(*{libraries!r} & set(sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_a_policy_without_weights_loads_neither_torch_nor_lerobot() -> None:
    code = """
from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.nodes.policy import PolicyParameters, load_policy
load_policy(PolicyParameters(), load_contract(find_contract("sim_arm")))
"""
    assert loaded(code, {"torch", "transformers", "lerobot", "vla_training"}) == []


def test_the_commander_process_loads_neither_cv2_nor_torch_nor_mujoco() -> None:
    code = "import vla_nodes.nodes.commander"
    assert loaded(code, {"cv2", "torch", "mujoco", "matplotlib", "scipy"}) == []


def test_every_source_file_names_its_licence() -> None:
    for file in ROOT.glob("[!.]*/**/*.py"):
        if ".venv" not in file.parts and "ros2_ws" not in file.parts:
            assert "SPDX-License-Identifier: Apache-2.0" in file.read_text()[:200], file
