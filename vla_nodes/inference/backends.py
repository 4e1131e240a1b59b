# SPDX-License-Identifier: Apache-2.0
"""Makes policies with weights.

Loading PyTorch and the models' libraries takes ten seconds and more, so what is wrong with a
folder is said before that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_nodes.contract import Contract
from vla_nodes.inference import lerobot_folder, pi05_robot
from vla_nodes.inference.options import PolicyOptions
from vla_nodes.inference.policy import Policy, PolicyError
from vla_nodes.inference.processors import share_processors
from vla_nodes.models.errors import CheckpointError


def make_pi05(contract: Contract, checkpoint: str, device: str, options: PolicyOptions) -> Policy:
    """A hierarchical pi0.5.

    Raises:
        PolicyError: The checkpoint is damaged, is for another robot, or was not trained for
            what the options ask.
    """
    with _faults_of(checkpoint) as folder:
        pi05_robot.check_folder(folder, contract, options)
    share_processors()
    from vla_nodes.inference.pi05_policy import Pi05Policy

    return Pi05Policy(contract, checkpoint, device, options)


def make_lerobot(
    contract: Contract, checkpoint: str, device: str, options: PolicyOptions
) -> Policy:
    """A policy of LeRobot.

    Raises:
        ImportError: LeRobot is not installed.
        PolicyError: The folder is damaged, or is for another robot; or an option was chosen:
            such a policy runs as its folder says.
    """
    options.refuse_for("a LeRobot policy")
    with _faults_of(checkpoint) as folder:
        lerobot_folder.read_folder(folder, contract)
    share_processors()
    from vla_nodes.inference.lerobot_policy import LeRobotPolicy

    return LeRobotPolicy(contract, checkpoint, device)


@contextmanager
def _faults_of(checkpoint: str) -> Iterator[Path]:
    if not checkpoint:
        raise PolicyError("it needs a checkpoint, the folder of its weights; found none")
    try:
        yield Path(checkpoint)
    except CheckpointError as error:
        raise PolicyError(str(error)) from error
