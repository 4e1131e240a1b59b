# SPDX-License-Identifier: Apache-2.0
"""Which frames an energy model is made of, and by which policy they are seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EnergySource:
    """Which contexts are wanted, and where they are kept.

    Attributes:
        policy: Folder of its checkpoint.
        dataset: Folders of LeRobot v3 datasets of its robot.
        folder: Of all contexts; several policies and datasets may share it.
        stride: Take every such frame of an episode only, from its first on.
        samples: Chunks that the policy draws for each frame, M; 0 for none.
        layers: Whether chunks are drawn with fewer layers of the expert.
        failures: Whether failed episodes make items, too.
        batch_size: Frames that the policy sees at a time.
        workers: Processes that decode pictures.
        device: Where the policy runs; None for a GPU where there is one.
        bf16: Whether the policy runs in bfloat16, as it does on a robot's GPU.
        seed: Of the noise of samples and layers, not negative.
    """

    policy: Path
    dataset: Sequence[Path]
    folder: Path
    stride: int = 1
    samples: int = 0
    layers: bool = False
    failures: bool = False
    batch_size: int = 32
    workers: int = 0
    device: str | None = None
    bf16: bool = False
    seed: int = 0
