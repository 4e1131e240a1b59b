# SPDX-License-Identifier: Apache-2.0
import contextlib
import copy
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_nodes.contract import Contract, ContractError, contract_digest, load_contract
from vla_nodes.contract.urdf import read_urdf_limits

FOLDER = Path(__file__).parents[2] / "config/contracts"
EXAMPLES = {file.stem: yaml.safe_load(file.read_text()) for file in FOLDER.glob("*.yaml")}

RAW = {"rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1", "yuv422", "yuv422_yuy2"}
RAW |= {f"bayer_{order}8" for order in ("rggb", "bggr", "gbrg", "grbg")}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["x" * 10_000, "1e-3", "rad", "position", "front", "/a", "", -1, 0, 1e9]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def places(node, path=()):
    """Paths of every value below the top."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))


@st.composite
def mutants(draw):
    """An example with one to three places deleted, renamed, replaced, doubled or moved."""
    document = copy.deepcopy(EXAMPLES[draw(st.sampled_from(sorted(EXAMPLES)))])
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(document)) or [("robot",)]))
        node = document
        for key in parents:
            node = node[key]
        action = draw(st.sampled_from(["delete", "rename", "replace", "scale", "copy"]))
        if action == "delete" and last in (node if isinstance(node, dict) else range(len(node))):
            del node[last]
        elif action == "rename" and isinstance(node, dict) and last in node:
            node[draw(st.text(max_size=8))] = node.pop(last)
        elif action == "scale" and isinstance(node[last], int | float):
            node[last] *= draw(st.sampled_from([-1, 0.5, 2, 1000]))
        elif action == "copy":
            source = document
            for key in draw(st.sampled_from(list(places(document)))):
                source = source[key]
            node[last] = copy.deepcopy(source)
        else:
            node[last] = draw(values)
    return document


def assert_sound(contract: Contract) -> None:
    """The rules, said again without the loader's code."""
    assert re.fullmatch(r"[A-Za-z_]\w*", contract.robot, re.ASCII)
    assert 0 < contract.fps <= 1000
    assert contract.timeline in ("header", "receive")
    streams = [*contract.cameras, *contract.states]
    names = [stream.name for stream in streams]
    assert contract.reference in names
    assert len(set(names)) == len(names)
    for seconds in (contract.max_skew, *(stream.max_age for stream in streams)):
        assert 0 < seconds <= 10
    for stream in streams:
        assert 1 <= stream.qos.depth <= 1000
        assert stream.qos.reliability in ("best_effort", "reliable")
    for topic in [item.topic for item in (*streams, *contract.actions)]:
        assert all(re.fullmatch(r"[A-Za-z_]\w*", t, re.ASCII) for t in topic[1:].split("/"))
        assert topic[0] == "/"
    for camera in contract.cameras:
        assert camera.encoding in (RAW if camera.type.endswith("/Image") else {"jpeg", "png"})
        x, y, width, height = camera.crop or (0, 0, camera.width, camera.height)
        assert 0 <= x < x + width <= camera.width
        assert 0 <= y < y + height <= camera.height
    assert_joints_sound(contract)
    for text in (*contract.tasks, *contract.subtasks):
        assert 1 <= len(text.strip()) <= len(text) <= 512
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    assert len(contract_digest(contract)) == 64


def assert_joints_sound(contract: Contract) -> None:
    assert contract.actions
    assert len(set(contract.state_names)) == len(contract.state_names)
    assert len(set(contract.action_names)) == len(contract.action_names) > 0
    for i, name in zip(contract.measured_index, contract.action_names, strict=True):
        assert contract.state_names[i] == f"{name}.position"
    for source in contract.actions:
        assert len(source.joints) == len(source.limits) == len(source.grippers)
        assert source.recorded is None or len(source.recorded.joints) == len(source.joints)
    for limit, gripper in zip(contract.limits, contract.grippers, strict=True):
        assert -math.inf < limit.lower < limit.upper < math.inf
        assert 0 < limit.velocity < math.inf
        assert 0 < limit.acceleration < math.inf
        if gripper:
            assert limit.lower <= gripper.low < gripper.threshold - gripper.hysteresis
            assert gripper.threshold + gripper.hysteresis < gripper.high <= limit.upper
            assert gripper.hysteresis >= 0
    if contract.robot == "ur5e" and contract.actions[0].joints[0] == "shoulder_pan_joint":
        assert all(limit.velocity <= math.pi for limit in contract.limits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contracts")
    shutil.copy(FOLDER / "ur5e.urdf", folder)
    return folder


def loads_soundly_or_says_why(file: Path) -> None:
    try:
        contract = load_contract(file)
    except ContractError as error:
        text = str(error)
        assert text.startswith(str(file)) or text.startswith(str(file.parent / "ur5e.urdf"))
        assert text.isprintable()
        assert len(text) < 2000
        assert re.search(": found .+; .+", text)
    else:
        assert_sound(contract)


fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@fuzz
@given(document=mutants())
def test_a_mutated_example_loads_soundly_or_says_why(folder, document):
    file = folder / "mutant.yaml"
    file.write_text(yaml.safe_dump(document, allow_unicode=False, sort_keys=False))
    loads_soundly_or_says_why(file)


@fuzz
@given(text=st.text(st.sampled_from("ab:-,[]{}&*!?|>'\"%#\\ \n\t\0\ud7ff0.~<="), max_size=60))
def test_random_text_is_refused_cleanly(folder, text):
    file = folder / "text.yaml"
    file.write_text(text)
    with pytest.raises(ContractError, match=r"text\.yaml"):
        load_contract(file)


@fuzz
@given(data=st.data())
def test_a_damaged_example_loads_soundly_or_says_why(folder, data):
    source = (FOLDER / f"{data.draw(st.sampled_from(sorted(EXAMPLES)))}.yaml").read_bytes()
    at = data.draw(st.integers(0, len(source)))
    cut = data.draw(st.integers(0, 20))
    file = folder / "damaged.yaml"
    file.write_bytes(source[:at] + data.draw(st.binary(max_size=6)) + source[at + cut :])
    loads_soundly_or_says_why(file)


@fuzz
@given(data=st.data())
def test_a_damaged_urdf_is_read_or_says_why(folder, data):
    source = (FOLDER / "ur5e.urdf").read_bytes()
    at = data.draw(st.integers(0, len(source)))
    cut = data.draw(st.integers(0, 40))
    file = folder / "damaged.urdf"
    file.write_bytes(source[:at] + data.draw(st.binary(max_size=6)) + source[at + cut :])
    limits = None
    with contextlib.suppress(ContractError):
        limits = read_urdf_limits(file, ["elbow_joint"])["elbow_joint"]
    if limits:
        assert limits.lower < limits.upper
        assert 0 < limits.velocity < math.inf
