# SPDX-License-Identifier: Apache-2.0
"""``vla-calibrate energy``: from arguments to thresholds in the checkpoint, and their report."""

from dataclasses import replace

from vla_nodes.models.checkpoint_folder import check_same
from vla_nodes.models.energy_checkpoint import (
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_training.data.errors import DataError
from vla_training.energy.calibrate import CalibrationArguments
from vla_training.energy.calibration_report import make_report, print_report, write_report
from vla_training.energy.conformal import calibrate, check_rejects
from vla_training.energy.energy_data import open_as_trained
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.negative_settings import KINDS, NegativeSettings
from vla_training.energy.scoring import EXPERT, Chunks, expert_chunks, perturbed_chunks, score
from vla_training.energy.split_frames import PARTS
from vla_training.options import chosen_device


def calibrate_checkpoint(arguments: CalibrationArguments) -> None:
    """Calibrates an energy model; prints, and writes a report where that is asked for.

    Raises:
        CheckpointError: A checkpoint cannot be used, or the energy model is another policy's.
        DataError: The data cannot be used, have too few expert chunks, or were trained on; no
            chunk would ever be rejected; or a file cannot be written.
        OSError: The disk refused.
    """
    device = chosen_device(arguments.device)
    checkpoint = read_energy_checkpoint(arguments.checkpoint)
    if not checkpoint.interface.shares[PARTS.index("validation")]:
        raise DataError(
            f"{checkpoint.folder} was trained without a validation part, and there is nothing to "
            "calibrate on; train it with one"
        )
    check_policy(checkpoint, arguments.policy)
    source = arguments.source(checkpoint.folder, device)
    data = open_as_trained([checkpoint], source, ("validation", "test"))
    model, size = load_energy_model(checkpoint, device), arguments.batch_size
    # Expert chunks alone calibrate. The policy draws none here, and what is too little to
    # calibrate on is refused before it looks at the test part.
    plain = replace(source, samples=0, layers=False)
    frames = data.sets(plain, ["validation"])["validation"]
    experts = score(model, frames, {EXPERT: expert_chunks}, device, size).experts
    calibration = calibrate(experts, arguments.epsilon)
    check_rejects(calibration, checkpoint.config)
    test = None
    if checkpoint.interface.shares[PARTS.index("test")]:
        frames = data.sets(source, ["test"])["test"]
        test = score(model, frames, _chunks(frames, arguments), device, size)
    check_same(checkpoint.folder, checkpoint.written)
    write_energy_checkpoint(
        checkpoint.folder, model, checkpoint.config, checkpoint.interface, calibration
    )
    report = make_report(calibration, experts, test, checkpoint.config.saturated)
    print_report(report)
    print(f"written: {checkpoint.folder}")
    if arguments.out is not None:
        told = {**arguments.told(source), "checkpoint": str(checkpoint.folder)}
        write_report(arguments.out, told, report, test)
        print(f"written: {arguments.out}")


def _chunks(frames: EnergySet, arguments: CalibrationArguments) -> dict[str, Chunks]:
    """The expert's, and of every kind that was asked for."""
    asked = {"samples": arguments.samples > 0, "layers": arguments.layers}
    return {
        EXPERT: expert_chunks,
        **{
            kind: perturbed_chunks(kind, frames.chunks, NegativeSettings(), arguments.seed)
            for kind in KINDS
            if asked.get(kind, True)
        },
    }
