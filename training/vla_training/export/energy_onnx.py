# SPDX-License-Identifier: Apache-2.0
"""Energy models as two ONNX graphs, one for what the policy sees and one for chunks.

What it sees is encoded once, however many chunks are then held against it.
"""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from vla_nodes.inference.onnx_folder import ABOUT, digest, export_folder
from vla_nodes.models.checkpoint import read_checkpoint
from vla_nodes.models.checkpoint_folder import check_same, write_folder
from vla_nodes.models.energy import EnergyContext, EnergyModel
from vla_nodes.models.energy_checkpoint import (
    check_policy,
    load_energy_model,
    read_energy_checkpoint,
)
from vla_nodes.models.files import write_object
from vla_training.export.errors import ExportError
from vla_training.export.graphs import write_graph

CONTEXT, ENERGY = "context.onnx", "energy.onnx"
PRECISION = "fp32"
MOST_DIFFERENCE = 1e-4
"""Of energies from the model's; of those beyond 1, as a share of them."""
MOST_CANDIDATES = 64


class Context(nn.Module):
    """(S, D) and what of it to ignore, (S,), to features (S, W); (1, W) in the global form."""

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor, ignore: Tensor) -> Tensor:
        """Encodes."""
        return self.model.context(hidden[None], ignore[None]).features[0]


class Energy(nn.Module):
    """Features, what to ignore, and chunks (K, T, A), to energies (K,)."""

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, ignore: Tensor, actions: Tensor) -> Tensor:
        """Judges."""
        whole = self.model.config.form == "global"
        context = EnergyContext(features[None], None if whole else ignore[None])
        return self.model.energies(context, actions[None])[0]


def export_energy(source: Path, policy: Path, candidates: int) -> str:
    """Writes the graphs of an energy model into its folder, whole or not at all.

    Args:
        source: Folder of the checkpoint.
        policy: Folder of the policy that it was trained with.
        candidates: Chunks that are judged at once.

    Returns:
        What was written, and how far it is from the model, for people.

    Raises:
        CheckpointError: A checkpoint is damaged, or they do not belong together.
        ExportError: There are too many candidates or none, the policy does not say what it sees,
            or the graphs give other energies in ONNX Runtime.
        OSError: The disk refused.
    """
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise ExportError(f"candidates is {candidates}, expected 1 to {MOST_CANDIDATES}")
    checkpoint = read_energy_checkpoint(source)
    seen = read_checkpoint(policy)
    check_policy(checkpoint, seen.folder)
    if seen.robot is None:
        raise ExportError(f"{seen.folder} does not say which cameras its policy sees")
    pictures = len(seen.robot.cameras) * seen.config.image_tokens
    tokens, chunk = pictures + seen.config.max_prompt_tokens, checkpoint.interface.chunk
    weights = digest(checkpoint.folder)
    model = load_energy_model(checkpoint)
    inputs = _inputs(model, tokens, candidates, chunk)
    folder = export_folder(checkpoint.folder, PRECISION)
    differences = []

    def fill(partial: Path) -> None:
        _write_graphs(model, inputs, partial)
        shapes = {name: list(one.shape) for name, one in inputs.items()}
        about = {"precision": PRECISION, "shapes": shapes, "weights": weights}
        write_object(partial / ABOUT, about)
        differences.append(_compare(model, inputs, partial))
        check_same(checkpoint.folder, checkpoint.written)

    write_folder(folder, fill, (ABOUT,))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return (
        f"{folder}: {tokens} tokens, {candidates} chunks of {chunk} actions, {size / 1e6:.1f} MB; "
        f"energies differ by at most {differences[0]:.1e} from the model's"
    )


@torch.no_grad()
def _inputs(model: EnergyModel, tokens: int, candidates: int, chunk: int) -> dict[str, Tensor]:
    """Noise by name: all that either graph takes."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, model.config.state_dim, generator=generator)
    ignore = torch.arange(tokens) >= max(1, 2 * tokens // 3)
    return {
        "hidden": hidden,
        "ignore": ignore,
        "features": Context(model)(hidden, ignore),
        "actions": torch.randn(candidates, chunk, model.config.action_dim, generator=generator),
    }


def _write_graphs(model: EnergyModel, inputs: dict[str, Tensor], folder: Path) -> None:
    for name, module, taken, output in (
        (CONTEXT, Context(model), ("hidden", "ignore"), "features"),
        (ENERGY, Energy(model), ("features", "ignore", "actions"), "energies"),
    ):
        write_graph(module, {one: inputs[one] for one in taken}, output, folder / name)


@torch.no_grad()
def _compare(model: EnergyModel, inputs: dict[str, Tensor], folder: Path) -> float:
    """The largest difference, of a whole context and of one that is filled up.

    Raises:
        ExportError: It is too large, or no number.
    """
    context, energy = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in (CONTEXT, ENERGY)
    )
    hidden, actions = inputs["hidden"], inputs["actions"]
    largest = 0.0
    for ignore in (inputs["ignore"], torch.zeros_like(inputs["ignore"])):
        expected = model.energies(model.context(hidden[None], ignore[None]), actions[None])[0]
        given = {"ignore": ignore.numpy()}
        (features,) = context.run(None, {**given, "hidden": hidden.numpy()})
        given |= {"features": features, "actions": actions.numpy()}
        found = torch.from_numpy(energy.run(None, given)[0])
        difference = float(((found - expected).abs() / expected.abs().clamp(min=1.0)).max())
        if not difference <= MOST_DIFFERENCE:  # also of what is no number
            raise ExportError(
                f"in ONNX Runtime energies differ by {difference:.2g}, expected at most "
                f"{MOST_DIFFERENCE:g}; nothing was written"
            )
        largest = max(largest, difference)
    return largest
