# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import pytest
import yaml

from vla_nodes.contract import contract_digest, load_contract

FOLDER = Path(__file__).parents[2] / "config/contracts"


def variants(value):
    """Every copy of nested dataclasses and tuples with one leaf changed."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name == "checks":  # judges data, and so does not count
                continue
            for other in variants(getattr(value, field.name)):
                yield dataclasses.replace(value, **{field.name: other})
    elif isinstance(value, tuple):
        yield (*value, "more")
        for i, item in enumerate(value):
            for other in variants(item):
                yield (*value[:i], other, *value[i + 1 :])
    elif isinstance(value, str):
        yield value + "x"
    else:
        yield 0 if value is None else value * 1.0000001 + 1e-9


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_any_change_of_any_field_changes_the_digest(file):
    contract = load_contract(file)
    digests = [contract_digest(other) for other in (contract, *variants(contract))]
    assert len(digests) > 30
    assert len(set(digests)) == len(digests)


def reversed_keys(document, keep=("cameras", "states", "actions")):
    """Keys in reverse, except where their order is the order of a vector."""
    if not isinstance(document, dict):
        return document
    return {
        key: {name: reversed_keys(value[name]) for name in value}
        if key in keep
        else reversed_keys(value)
        for key, value in reversed(document.items())
    }


@pytest.mark.parametrize("name", ["sim_arm", "so101", "aloha"])
def test_comments_and_the_order_of_keys_do_not_count(tmp_path, name):
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    file = tmp_path / "other.yaml"
    file.write_text(
        "# another comment\n" + yaml.safe_dump(reversed_keys(document), sort_keys=False)
    )
    contract = load_contract(file)
    assert contract == load_contract(FOLDER / f"{name}.yaml")
    assert contract_digest(contract) == contract_digest(load_contract(FOLDER / f"{name}.yaml"))


def test_the_order_of_cameras_counts():
    contract = load_contract(FOLDER / "sim_arm.yaml")
    swapped = dataclasses.replace(contract, cameras=contract.cameras[::-1])
    assert contract_digest(swapped) != contract_digest(contract)


def test_bounds_for_recorded_data_do_not_count(document, load):
    digest = contract_digest(load(document))
    document["checks"] = {"max_delay": 0.5}
    assert contract_digest(load(document)) == digest


def test_an_integer_and_its_float_are_the_same_contract(document, load):
    digest = contract_digest(load(document))
    document["fps"] = 20.0
    assert contract_digest(load(document)) == digest
