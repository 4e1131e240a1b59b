# SPDX-License-Identifier: Apache-2.0
"""What the commands that ask energy models about recorded frames are told alike."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vla_training.data.errors import DataError
from vla_training.energy.energy_source import EnergySource
from vla_training.options import check_least


@dataclass(frozen=True, kw_only=True)
class FramesArguments:
    """Recorded frames, and the policy that sees them.

    Attributes:
        policy: Folder of the checkpoint of the energy model's policy.
        dataset: Folders of the LeRobot v3 datasets that it was trained on.
        stride: Take every such frame of an episode only.
        samples: Chunks that the policy draws for each frame; 0 for none.
        layers: Whether chunks of the policy's earlier layers are looked at.
        seed: Of perturbed chunks and samples.
        contexts: Folder that keeps what the policy saw; contexts beside the checkpoint if nothing
            is said.
        batch_size: Frames at a time.
        workers: Processes that decode videos.
        device: A GPU where there is one, if nothing is said.
        bf16: Let the policy compute in bfloat16.
        out: Folder for report.json and plots; none are written without.
    """

    policy: Path
    dataset: tuple[Path, ...]
    stride: int = 1
    samples: int = 0
    layers: bool = False
    seed: int = 0
    contexts: Path | None = None
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small, or there is no dataset.
        """
        check_least(self, {"stride": 1, "samples": 0, "seed": 0, "batch_size": 1, "workers": 0})
        if not self.dataset:
            raise DataError("--dataset names no folder, expected one at least")

    def source(self, checkpoint: Path, device: str) -> EnergySource:
        """What is wanted of the data.

        Args:
            checkpoint: Folder of the energy model that contexts lie beside.
            device: On which the policy runs.
        """
        return EnergySource(
            policy=self.policy,
            dataset=self.dataset,
            folder=self.contexts or checkpoint.resolve().parent / "contexts",
            stride=self.stride,
            samples=self.samples,
            layers=self.layers,
            batch_size=self.batch_size,
            workers=self.workers,
            device=device,
            bf16=self.bf16,
            seed=self.seed,
        )

    def told(self, source: EnergySource) -> dict[str, Any]:
        """The options as a report tells them, with what was chosen where nothing was said."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "out"},
            "policy": str(self.policy),
            "dataset": list(map(str, self.dataset)),
            "contexts": str(source.folder),
            "device": source.device,
        }
