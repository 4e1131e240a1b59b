# SPDX-License-Identifier: Apache-2.0
"""The data that an energy model is trained, calibrated and judged on."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from vla_nodes.models.energy_checkpoint import EnergyCheckpoint, EnergyInterface
from vla_training.data.errors import DataError
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.energy_source import EnergySource
from vla_training.energy.split_frames import PARTS, Part, SplitFrames


@dataclass(frozen=True, eq=False)
class EnergySets:
    """The parts of the data; None for one that was not wanted, or whose share is 0.

    Attributes:
        training: To learn from.
        validation: Chooses the checkpoint, and calibrates it.
        test: Judges it.
        interface: What an energy model of these data is for.
        state_dim: Width of a context, D.
        action_dim: Elements of an action, A.
    """

    training: EnergySet | None
    validation: EnergySet | None
    test: EnergySet | None
    interface: EnergyInterface
    state_dim: int
    action_dim: int


def open_energy_sets(
    source: EnergySource,
    split_seed: int,
    shares: tuple[float, float, float],
    wanted: Collection[Part] = PARTS,
) -> EnergySets:
    """Opens datasets, and has the policy look at what it has not seen yet.

    Args:
        source: Policy and datasets.
        split_seed: Of the split of each dataset by episode.
        shares: Of training, validation and test.
        wanted: Parts that are opened; the policy sees no frame of the others.

    Raises:
        CheckpointError: The policy cannot be used.
        DataError: A dataset cannot be read, or does not fit the policy; the disk has no room;
            no frame is left in a part; a text has more tokens than the policy takes.
    """
    data = SplitFrames.open(source, split_seed, shares)
    sets = data.sets(source, wanted)
    interface = replace(data.interface, episodes=data.known(["training"]))
    return EnergySets(
        **{part: sets.get(part) for part in PARTS},
        interface=interface,
        state_dim=data.policy.checkpoint.config.language.width,
        action_dim=len(interface.action_names),
    )


def open_as_trained(
    checkpoints: Sequence[EnergyCheckpoint], source: EnergySource, parts: Collection[Part]
) -> SplitFrames:
    """Opens datasets as the training of energy models has split them.

    Args:
        checkpoints: Of the energy models, all of one split.
        source: Policy and datasets.
        parts: That the models will be held against.

    Raises:
        CheckpointError: The policy cannot be used.
        DataError: The data cannot be used, or are not what the energy models are for, or a model
            was trained on episodes of a part that was not for training.
    """
    told = checkpoints[0].interface
    data = SplitFrames.open(source, told.split_seed, told.shares)
    held = data.known([part for part in parts if part != "training"])
    for one in checkpoints:
        check_same_interface(data.interface, "the policy with these datasets", one)
        _check_unknown(one, held)
    return data


def _check_unknown(checkpoint: EnergyCheckpoint, held: Sequence[str]) -> None:
    """Checks that an energy model was trained on none of some recordings, given by digests."""
    trained = set(checkpoint.interface.episodes)
    if known := sum(one in trained for one in held):
        raise DataError(
            f"{checkpoint.folder} was trained on {known} of the {len(held)} episodes that it is "
            "to be held against, or on copies of them, and energies of those say nothing of new "
            "ones; expected the datasets of its training, as they were then, or others that it "
            "has not seen"
        )
    if held and not trained:
        print(
            f"{checkpoint.folder} does not say which episodes it was trained on: with other "
            "datasets than those of its training, it may be held against some of them",
            file=sys.stderr,
        )


def check_same_interface(
    interface: EnergyInterface, whose: str, checkpoint: EnergyCheckpoint
) -> None:
    """Checks that something is for what an energy model is for, whatever it was trained on.

    Args:
        interface: Of that something.
        whose: What it is, in words.
        checkpoint: Of the energy model.

    Raises:
        DataError: It is not; says in what.
    """
    expected, found = asdict(checkpoint.interface), asdict(interface)
    for name, value in expected.items():
        if name != "episodes" and found[name] != value:
            raise DataError(
                f"{whose} has {name} {found[name]!s:.100}, expected {value!s:.100}, as "
                f"{checkpoint.folder} has"
            )
