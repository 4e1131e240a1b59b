# SPDX-License-Identifier: Apache-2.0
"""``vla-calibrate energy``: from arguments to thresholds in the checkpoint, and their report."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from vla_nodes.models.checkpoint_folder import check_same
from vla_nodes.models.energy_checkpoint import (
    EnergyCheckpoint,
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
    write_energy_checkpoint,
)
from vla_training.data.errors import DataError
from vla_training.energy.calibrate import CalibrationArguments
from vla_training.energy.calibration_report import make_report, print_report, write_report
from vla_training.energy.conformal import calibrate
from vla_training.energy.energy_data import (
    PARTS,
    Part,
    open_part,
)
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.energy_source import EnergySource
from vla_training.energy.negative_settings import KINDS, NegativeSettings
from vla_training.energy.scoring import (
    EXPERT,
    Chunks,
    expert_chunks,
    perturbed_chunks,
    score,
)


def calibrate_checkpoint(arguments: CalibrationArguments) -> None:
    """Calibrates an energy model; prints, and writes a report where that is asked for.

    Raises:
        CheckpointError: A checkpoint cannot be used, or the energy model is another policy's.
        DataError: The data cannot be used, or have too few expert chunks, or a file cannot be
            written.
        TrainingError: A text has more tokens than the policy takes.
        OSError: The disk refused.
    """
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device is cuda, but PyTorch finds no such device here")
    checkpoint = read_energy_checkpoint(arguments.checkpoint)
    if not checkpoint.interface.shares[PARTS.index("validation")]:
        raise DataError(
            f"{checkpoint.folder} was trained without a validation part, and there is nothing to "
            "calibrate on; train it with one"
        )
    contexts = arguments.contexts or checkpoint.folder.resolve().parent / "contexts"
    check_policy(checkpoint, arguments.policy)
    model, size = load_energy_model(checkpoint, device), arguments.batch_size
    # Expert chunks alone calibrate. The policy draws none here, and what is too little to
    # calibrate on is refused before it looks at the test part.
    plain = replace(arguments, samples=0, layers=False)
    frames = _open_part("validation", plain, checkpoint, contexts, device)
    experts = score(model, frames, {EXPERT: expert_chunks}, device, size).experts
    calibration = calibrate(experts, arguments.epsilon)
    test = None
    if checkpoint.interface.shares[PARTS.index("test")]:
        frames = _open_part("test", arguments, checkpoint, contexts, device)
        test = score(model, frames, _chunks(frames, arguments), device, size)
    check_same(checkpoint.folder, checkpoint.written)
    write_energy_checkpoint(
        checkpoint.folder, model, checkpoint.config, checkpoint.interface, calibration
    )
    report = make_report(calibration, experts, test)
    print_report(report)
    print(f"written: {checkpoint.folder}")
    if arguments.out is not None:
        told = {
            **{name: value for name, value in asdict(arguments).items() if name != "out"},
            "checkpoint": str(checkpoint.folder),
            "policy": str(arguments.policy),
            "dataset": list(map(str, arguments.dataset)),
            "contexts": str(contexts),
            "device": device,
        }
        write_report(arguments.out, told, report, test)
        print(f"written: {arguments.out}")


def _open_part(
    part: Part,
    arguments: CalibrationArguments,
    checkpoint: EnergyCheckpoint,
    contexts: Path,
    device: str,
) -> EnergySet:
    source = EnergySource(
        policy=arguments.policy,
        dataset=arguments.dataset,
        folder=contexts,
        stride=arguments.stride,
        samples=arguments.samples,
        layers=arguments.layers,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=device,
        bf16=arguments.bf16,
        seed=arguments.seed,
    )
    return open_part(checkpoint, source, part)


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
