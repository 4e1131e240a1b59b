# SPDX-License-Identifier: Apache-2.0
"""Whether a pi0.5 was trained for this robot; found out without loading PyTorch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vla_nodes.contract import Contract
from vla_nodes.inference.joint_names import check_joints
from vla_nodes.inference.options import PolicyOptions
from vla_nodes.models.energy_calibration import CALIBRATION, EnergyCalibration
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.lerobot_format import read_config
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05_config import Pi05Config
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.scaling import Scaling, numbered
from vla_nodes.models.stored_tensors import stored_tensors
from vla_nodes.models.tokenizer import TOKENIZER, Tokenizer


def check_folder(folder: Path, contract: Contract, options: PolicyOptions) -> None:
    """Checks all of a checkpoint but the values and shapes of its weights.

    Raises:
        CheckpointError: Something is missing or damaged, is of another robot, or was not trained
            for what the options ask.
    """
    check_is_here(folder)
    config, robot = read_config(folder)
    fit_robot(robot, contract)
    check_options(config, robot, options)
    check_energy(options)
    fit_normalization(Normalization.read(folder), contract)
    Tokenizer.read(folder / TOKENIZER)
    if not any(stored_tensors(folder)):
        raise CheckpointError(f"{folder} has no weights")


def check_is_here(folder: Path) -> None:
    """Checks that a checkpoint is a folder: a name on the Hub would be fetched.

    Raises:
        CheckpointError: It is none.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder '{folder}'; expected that of a pi0.5")


def check_energy(options: PolicyOptions) -> None:
    """Checks that there is a calibrated energy model where one is asked for.

    Raises:
        CheckpointError: There is none, or it is not calibrated.
    """
    if not options.energy:
        if options.correction_steps:
            raise CheckpointError(
                f"correction_steps is {options.correction_steps}, but there is no energy model to "
                "follow; name its folder in energy, or set it to 0"
            )
        return
    folder = Path(options.energy)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder '{folder}'; expected that of an energy model")
    if not (folder / CALIBRATION).exists():
        raise CheckpointError(
            f"{folder} was not calibrated, so it has no threshold to reject chunks by; calibrate "
            f"it for this policy: vla-calibrate energy {folder}"
        )
    EnergyCalibration.read(folder)


def check_options(config: Pi05Config, robot: RobotInterface | None, options: PolicyOptions) -> None:
    """Checks that a policy was trained for what the options ask.

    Raises:
        CheckpointError: It was not.
    """
    if options.guidance > 1.0 and not (robot and robot.advantage):
        raise CheckpointError(
            f"guidance is {options.guidance:g}, but the policy was not trained with advantages; "
            "set it to 1"
        )
    if options.real_time == "trained" and not config.max_delay:
        raise CheckpointError(
            "real_time is 'trained', but the policy was not trained so (max_delay 0); set it to "
            "'guided' or 'off'"
        )


def fit_robot(robot: RobotInterface | None, contract: Contract) -> RobotInterface:
    """What a checkpoint was trained for, which the contract has to offer.

    Args:
        robot: As the checkpoint says; None where it does not.
        contract: Of the robot that there is.

    Raises:
        CheckpointError: The contract has other cameras or joints, or another rate.
    """
    ours = tuple(camera.name for camera in contract.cameras if camera.encoding != "16UC1")
    robot = robot or RobotInterface(ours, None, None, None)
    for camera in robot.cameras:
        if camera not in ours:
            raise CheckpointError(
                f"the policy looks at camera '{camera}', which '{contract.robot}' does not have; "
                f"its cameras in colour: {', '.join(ours) or 'none'}"
            )
    if not robot.cameras:
        raise CheckpointError(f"pi0.5 needs a camera in colour; '{contract.robot}' has none")
    check_joints(robot.state_names, contract.state_names, contract.robot)
    check_joints(robot.action_names, contract.action_names, contract.robot)
    if robot.fps is not None and abs(robot.fps - contract.fps) > 1e-3 * contract.fps:
        raise CheckpointError(
            f"the policy gives {robot.fps:g} actions a second, '{contract.robot}' takes "
            f"{contract.fps:g}; set the contract's fps to {robot.fps:g}"
        )
    return robot


def fit_normalization(normalization: Normalization, contract: Contract) -> Normalization:
    """A checkpoint's normalisation under the contract's names of joints.

    Raises:
        CheckpointError: It is of other joints.
    """

    def fit(scaling: Scaling, ours: Sequence[str]) -> Scaling:
        if scaling.names == numbered(len(scaling.names)):
            return scaling.named(ours)
        check_joints(scaling.names, ours, contract.robot)
        return replace(scaling, names=tuple(ours))

    return Normalization(
        fit(normalization.state, contract.state_names),
        fit(normalization.action, contract.action_names),
    )
