# SPDX-License-Identifier: Apache-2.0
"""What tests of several rooms share."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract

# PyTorch's threads wait for each other by spinning, which costs minutes where graphs run beside.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Nodes of tests that run at the same time must not hear each other.
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))


@pytest.fixture(scope="session")
def act_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random ACT for the simulated arm, as LeRobot saves one. Not to be written to."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    contract = load_contract(find_contract("sim_arm"))
    cameras = {
        f"observation.images.{camera.name}": PolicyFeature(FeatureType.VISUAL, (3, *camera.shape))
        for camera in contract.cameras
    }
    joints = len(contract.action_names)
    config = ACTConfig(
        input_features={
            **cameras,
            "observation.state": PolicyFeature(FeatureType.STATE, (len(contract.state_names),)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (joints,))},
        device="cpu",
        pretrained_backbone_weights=None,
        chunk_size=20,
        n_action_steps=20,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
    )
    torch.manual_seed(0)
    numbers = torch.linspace(0.1, 0.6, joints)
    channels = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)
    pose = torch.tensor([0.0, 1.8, -1.9, -1.5, 0.0, 0.03])  # near the arm's home
    statistics = {key: {"mean": channels, "std": channels / 2} for key in cameras}
    statistics["observation.state"] = {"mean": pose, "std": numbers}
    statistics["action"] = {"mean": pose, "std": numbers / 10}
    folder = tmp_path_factory.mktemp("act")
    ACTPolicy(config).save_pretrained(folder)
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pi05_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random pi0.5 for the simulated arm. Not to be written to."""
    import tokenizers
    import torch
    from tokenizers import decoders, models, pre_tokenizers

    from vla_nodes.models.checkpoint import RobotInterface, write_checkpoint
    from vla_nodes.models.normalization import Normalization
    from vla_nodes.models.pi05 import Pi05
    from vla_nodes.models.pi05_config import tiny
    from vla_nodes.models.scaling import Scaling
    from vla_nodes.models.tokenizer import Tokenizer

    contract = load_contract(find_contract("sim_arm"))
    cameras = tuple(camera.name for camera in contract.cameras)
    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {character: i for i, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(alphabet[:3])
    config = replace(
        tiny(), chunk=20, max_prompt_tokens=100, max_subtask_tokens=40, pad_state=False
    )
    torch.manual_seed(0)
    model = Pi05(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that no norm is the identity, and no gate shut
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
    low, high = (-1.0, 1.0, -2.5, -2.0, -1.0, -0.01), (1.0, 2.0, -1.0, -1.0, 1.0, 0.05)
    near = tuple(0.45 * a + 0.55 * b for a, b in zip(low, high, strict=True))
    far = tuple(0.55 * a + 0.45 * b for a, b in zip(low, high, strict=True))
    folder = tmp_path_factory.mktemp("checkpoints") / "pi05"
    write_checkpoint(
        folder,
        model,
        config,
        RobotInterface(
            cameras,
            contract.state_names,
            contract.action_names,
            contract.fps,
            ("put the red cube in the tray", "put the blue cube in the tray"),
        ),
        Normalization(
            Scaling(contract.state_names, "quantile", low, high),
            Scaling(contract.action_names, "quantile", far, near),
        ),
        Tokenizer(tokenizer),
    )
    return folder


@pytest.fixture
def energy_folder(pi05_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes tiny random energy models for the tiny pi0.5.

    ``energy_folder(threshold, tasks={"wave": 0.5}, chunk=10)``: what else is named belongs to
    the interface. Energies lie between 0.1 and 2.1. Without a threshold it is not calibrated.
    """
    import torch

    from vla_nodes.models.energy import EnergyModel
    from vla_nodes.models.energy_calibration import EnergyCalibration, Threshold
    from vla_nodes.models.energy_checkpoint import (
        EnergyInterface,
        policy_digest,
        write_energy_checkpoint,
    )
    from vla_nodes.models.energy_config import EnergyConfig
    from vla_nodes.models.pi05_config import tiny

    contract = load_contract(find_contract("sim_arm"))

    def write(
        threshold: float | None = None,
        tasks: Mapping[str, float] | None = None,
        name: str = "energy",
        action_dim: int = len(contract.action_names),
        **interface: object,
    ) -> Path:
        config = EnergyConfig(tiny().language.width, action_dim, hidden=32, heads=4)
        torch.manual_seed(0)
        model = EnergyModel(config)
        with torch.no_grad():
            for parameter in model.parameters():  # so that energies differ
                parameter.mul_(2.0).add_(0.1 * torch.randn_like(parameter))
        names = contract.action_names
        known = EnergyInterface(
            policy_digest(pi05_folder), names, contract.fps, 20, 0, (0.8, 0.1, 0.1)
        )
        calibration = None
        if threshold is not None:
            own = {task: Threshold(energy, 100) for task, energy in (tasks or {}).items()}
            spread = tuple(0.1 + 0.02 * percent for percent in range(101))
            calibration = EnergyCalibration(0.05, Threshold(threshold, 1000), own, spread)
        folder = tmp_path / name
        known = replace(known, **interface)  # type: ignore[arg-type]
        write_energy_checkpoint(folder, model, config, known, calibration)
        return folder

    return write
