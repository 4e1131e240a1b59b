# SPDX-License-Identifier: Apache-2.0
"""What an episode says of itself: definitions, versions, times, words; and what is recorded."""

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from rosbags.typesys import get_types_from_msg

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.recording.code_version import code_version
from vla_nodes.recording.definitions import Definitions
from vla_nodes.recording.errors import RecordingError, one_line
from vla_nodes.recording.receipt_clock import steady_wall_clock
from vla_nodes.recording.streams import contract_streams


@pytest.mark.parametrize(
    "name",
    [
        *("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/JointState"),
        *("trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray"),
        *("vla_interfaces/msg/Task", "vla_interfaces/msg/TaskResult"),
        *("vla_interfaces/msg/Subtask", "vla_interfaces/msg/ActionChunk"),
        "vla_interfaces/msg/ValueEstimate",
    ],
)
def test_a_definition_has_the_hash_that_the_installed_package_gives(name: str) -> None:
    definition = Definitions().of(name)
    described = Path(sysconfig.get_path("data")) / "share" / f"{name}.json"
    if not described.is_file():
        pytest.skip(f"{name} lies elsewhere")
    hashes = json.loads(described.read_text())["type_hashes"]
    assert {"type_name": name, "hash_string": definition.digest} in hashes
    # Every type within it is defined too.
    assert set(get_types_from_msg(definition.text, name)) == {h["type_name"] for h in hashes}


@pytest.mark.parametrize("name", ["no_such_package/msg/Thing", "vla_interfaces/msg/NoSuchThing"])
def test_a_type_that_is_not_installed_is_named(name: str) -> None:
    with pytest.raises(RecordingError, match=f"no definition of {name}: install the package"):
        Definitions().of(name)


def test_the_version_of_a_checkout_is_its_commit_and_whether_it_was_changed(
    tmp_path: Path,
) -> None:
    assert code_version(tmp_path) == ""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert code_version(tmp_path) == ""
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "begin")
    commit = git("log", "-1", "--format=%H")
    (tmp_path / "notes").touch()
    assert code_version(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert code_version(tmp_path) == f"{commit}-dirty"


@pytest.mark.parametrize("step", [5, -5])
def test_a_step_of_the_system_clock_does_not_show(step: int) -> None:
    wall, steady = [1_750_000_000], [100]
    clock = steady_wall_clock(lambda: wall[0], lambda: steady[0])
    assert clock() == 1_750_000_000
    wall[0] += step
    steady[0] += 1
    assert clock() == 1_750_000_001


def test_text_from_outside_is_bounded_and_escaped() -> None:
    assert one_line("a\x1b[31mb\nc\udc80ü") == "a\\x1b[31mb\\nc\\udc80ü"
    assert one_line("x" * 1000) == "x" * 512


def test_each_topic_of_a_contract_is_recorded_once() -> None:
    sim = {s.topic: s for s in contract_streams(load_contract(find_contract("sim_arm")))}
    assert list(sim) == [
        *("/front/image", "/wrist/image", "/joint_states", "/arm_controller/joint_trajectory"),
    ]
    assert all(stream.needed for stream in sim.values())
    contract = load_contract(find_contract("so101"))
    recorded = {a.recorded.topic for a in contract.actions if a.recorded}
    commands = {a.topic for a in contract.actions}
    streams = {s.topic: s for s in contract_streams(contract)}
    assert recorded | commands <= set(streams)
    # Who teleoperates sends no commands.
    assert {t for t in commands if streams[t].needed} == commands & recorded
