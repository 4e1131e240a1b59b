# SPDX-License-Identifier: Apache-2.0
"""Which policy an energy model is for, and how it is known that the policy has changed."""

import json
import shutil

import checkpoint_samples
import pytest
from energy_reference import make_energy_model
from pi05_samples import make_model
from safetensors.torch import load_file, save_file

from vla_nodes.models.checkpoint import write_checkpoint
from vla_nodes.models.energy_checkpoint import (
    EnergyInterface,
    check_policy,
    policy_digest,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pi05_config import tiny


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies") / "policy"
    parts = (
        checkpoint_samples.make_robot(),
        checkpoint_samples.make_normalization(),
        checkpoint_samples.make_tokenizer(),
    )
    write_checkpoint(folder, make_model(), tiny(), *parts)
    return folder


@pytest.fixture
def policy(policies, tmp_path):
    """One to change."""
    return shutil.copytree(policies, tmp_path / "policy")


def write_for(digest, folder):
    model = make_energy_model()
    interface = EnergyInterface(digest, ("pan", "lift", "grip"), 12.5, 20, 7, (0.8, 0.1, 0.1))
    write_energy_checkpoint(folder, model, model.config, interface)
    return read_energy_checkpoint(folder)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(policy):
    file = policy / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file)


def change_normalization(policy):
    file = policy / "normalization.json"
    file.write_text(file.read_text().replace("1.75", "1.76"))


def change_tokenizer(policy):
    file = next((policy / "tokenizer").iterdir())
    file.write_text(file.read_text() + " ")


def add_a_part(policy):
    (policy / "policy_preprocessor_step_3_normalizer.safetensors").write_bytes(b"")


def rename_a_part(policy):
    (policy / "normalization.json").rename(policy / "normalisation.json")


def add_statistics_of_openpi(policy):
    (policy / "assets/arm").mkdir(parents=True)
    (policy / "assets/arm/norm_stats.json").write_text("{}")


@pytest.mark.parametrize(
    "change",
    [
        change_weights,
        change_normalization,
        change_tokenizer,
        add_a_part,
        rename_a_part,
        add_statistics_of_openpi,
        lambda policy: edit(policy / "pi05.json", more=1),
        lambda policy: edit(policy / "config.json", more=1),
    ],
)
def test_an_energy_model_is_refused_once_its_policy_changed(policy, tmp_path, change):
    digest = policy_digest(policy)
    checkpoint = write_for(digest, tmp_path / "energy")
    check_policy(checkpoint, policy)
    change(policy)
    assert policy_digest(policy) != digest
    with pytest.raises(
        CheckpointError, match=r"energy was trained with another policy than .*policy, or with"
    ) as caught:
        check_policy(checkpoint, policy)
    assert f"train it for this one: vla-train energy --policy {policy}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_lies_beside_a_policy_is_not_of_it(policy):
    digest = policy_digest(policy)
    write_for(digest, policy / "energy")
    (policy / "README.md").write_text("mine")
    assert policy_digest(policy) == digest


def test_a_copy_is_the_same_policy(policies, policy, tmp_path):
    (tmp_path / "link").symlink_to(policy)
    assert policy_digest(policies) == policy_digest(policy) == policy_digest(tmp_path / "link")


def test_a_folder_without_a_policy_is_named(tmp_path):
    checkpoint = write_for("0" * 64, tmp_path / "energy")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=f"{folder} holds no checkpoint, expected"):
            check_policy(checkpoint, folder)


def test_a_policy_that_cannot_be_read_is_named(policy):
    (policy / "config.json").unlink()
    (policy / "config.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"policy cannot be read: .*config\.json"):
        policy_digest(policy)


def test_a_policy_is_neither_read_as_an_energy_model_nor_replaced_by_one(policy):
    words = r"config\.json: type is 'pi05', expected 'vla_energy': this is no energy model"
    with pytest.raises(CheckpointError, match=words):
        read_energy_checkpoint(policy)
    with pytest.raises(CheckpointError, match=words):
        write_for("0" * 64, policy)
    assert (policy / "normalization.json").exists()
