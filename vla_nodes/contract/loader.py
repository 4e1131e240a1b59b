# SPDX-License-Identifier: Apache-2.0
"""From a YAML file to a contract that keeps every rule."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vla_nodes.contract.actions import read_action
from vla_nodes.contract.checks import read_checks
from vla_nodes.contract.document import Entry, read_document
from vla_nodes.contract.schema import ActionSource, Contract, StateSource
from vla_nodes.contract.streams import SECONDS, read_camera, read_state
from vla_nodes.contract.values import (
    NAME,
    SENTENCE,
    Kind,
    choice,
    listing,
    named,
    number,
    section,
    suggest,
)

_REQUIRED = {
    "robot": NAME,
    "fps": number("Hz", least=0.1, most=1000),
    "timeline": choice("header", "receive"),
    "reference": NAME,
    "max_skew": SECONDS,
    # Never empty: whatever is commanded must be measured too.
    "states": named(read_state, "joint state streams", least=1),
    "actions": named(read_action, "controllers", least=1),
}
_OPTIONAL = {
    "cameras": named(read_camera, "cameras"),
    "tasks": listing(SENTENCE),
    "subtasks": listing(SENTENCE),
    "checks": Kind("a mapping of bounds", read_checks),
}


def load_contract(path: str | Path) -> Contract:
    """Loads a robot's contract.

    Args:
        path: A YAML file; the URDFs it names lie in its folder.

    Raises:
        ContractError: If the file cannot be read, is not YAML, or breaks a rule. The text is one
            line with file, line, key, what was found and what would be right.
    """
    top = read_document(Path(path))
    values = {"cameras": (), **section(top, _REQUIRED, _OPTIONAL)}
    contract = Contract(**values)
    _check_streams(top, contract)
    _refuse_shared_names(top.at("states"), contract.states)
    _refuse_shared_names(top.at("actions"), contract.actions)
    _refuse_shared_topics(top.at("actions"), contract.actions)
    _check_measured(top.at("actions"), contract)
    return contract


def contract_digest(contract: Contract) -> str:
    """SHA-256 in hexadecimal of what a contract says about the robot.

    Recorded beside data and checkpoints, to tell which contract made them. Comments, the order of
    keys, the path of a URDF and the bounds of ``checks``, which judge data and do not make it, do
    not count; the order of streams and joints does.
    """
    values = asdict(contract)
    del values["checks"]
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _check_streams(top: Entry, contract: Contract) -> None:
    cameras = {camera.name for camera in contract.cameras}
    streams = [*cameras, *(source.name for source in contract.states)]
    for source in contract.states:
        if source.name in cameras:
            remedy = "give the camera or the state source another name"
            raise top.at("states", source.name).error("the name of a camera", remedy)
    if contract.reference not in streams:
        found = f"{contract.reference}, which is no camera or state source"
        raise top.at("reference").error(found, suggest(contract.reference, streams))


def _refuse_shared_names(
    entry: Entry, sources: Sequence[StateSource] | Sequence[ActionSource]
) -> None:
    """Names of vector elements must tell two sources apart."""
    owner: dict[str, str] = {}
    for source in sources:
        for name in source.vector_names:
            if name in owner:
                found = f"{name}, which {owner[name]} has too"
                remedy = "give one of the two a prefix, such as `prefix: left_`"
                raise entry.at(source.name, "joints").error(found, remedy)
            owner[name] = source.name


def _refuse_shared_topics(entry: Entry, actions: Sequence[ActionSource]) -> None:
    """Two sources on one topic would overwrite each other's commands."""
    owner: dict[str, str] = {}
    for source in actions:
        if source.topic in owner:
            found = f"{source.topic}, which {owner[source.topic]} commands too"
            remedy = "give each controller its own topic"
            raise entry.at(source.name, "topic").error(found, remedy)
        owner[source.topic] = source.name


def _check_measured(entry: Entry, contract: Contract) -> None:
    """A command is spliced from the measured position, so each action joint needs one."""
    measured = set(contract.state_names)
    for source in contract.actions:
        for name in source.vector_names:
            if f"{name}.position" not in measured:
                found = f"{name}, whose position no state measures"
                remedy = "read it in `states`, with the same prefix and joint and field `position`"
                raise entry.at(source.name, "joints").error(found, remedy)
