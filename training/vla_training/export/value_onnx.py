# SPDX-License-Identifier: Apache-2.0
"""Value functions as two ONNX graphs, one for pictures and one for estimates."""

from pathlib import Path

import torch
from torch import Tensor, nn

from vla_nodes.inference.onnx_folder import (
    ABOUT,
    ENCODER,
    ESTIMATOR,
    PRECISIONS,
    OnnxExport,
    digest,
    export_folder,
    input_shapes,
)
from vla_nodes.inference.onnx_value import OnnxGraphs
from vla_nodes.models.checkpoint_folder import check_same, write_folder
from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.files import write_object
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.value_checkpoint import (
    ValueCheckpoint,
    load_value_model,
    read_value_checkpoint,
)
from vla_nodes.models.value_prompt import value_tokens
from vla_training.export.errors import ExportError
from vla_training.export.graphs import write_graph
from vla_training.export.half_precision import halve

MOST_DIFFERENCE = {"fp32": 1e-4, "fp16": 0.02}
"""Of probabilities from those of the model in float32."""
MOST_BATCH = 64

type Model = CrossAttentionValue | StitchedValue
type Inputs = tuple[Tensor, ...]


class Encoder(nn.Module):
    """(M, 3, S, S) to features (M, P, W)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes."""
        return self.model.encode(pixels)


class Estimator(nn.Module):
    """The same views for all texts: (V, P, W), (V,), and two (N, L), to logits (N, 201)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor) -> Tensor:
        """Estimates."""
        count = len(ids)
        return self.model(features.expand(count, -1, -1, -1), mask.expand(count, -1), ids, id_mask)


def export_value(source: Path, cameras: int | None, batch: int, precision: str) -> str:
    """Writes the graphs of a value function into its folder, whole or not at all.

    Args:
        source: Folder of the checkpoint.
        cameras: Whose pictures are taken at once; None for all that it was trained with.
        batch: Texts that are taken at once.
        precision: "fp32" or "fp16".

    Returns:
        What was written, and how far it is from the model, for people.

    Raises:
        CheckpointError: The checkpoint is damaged.
        ExportError: It has fewer cameras, or gives other values in ONNX Runtime.
        OSError: The disk refused.
    """
    checkpoint = read_value_checkpoint(source)
    if checkpoint.interface is None:
        raise ExportError(f"{checkpoint.folder} was aligned only and gives no values; train it")
    known = len(checkpoint.interface.cameras)
    cameras = known if cameras is None else cameras
    if not 1 <= cameras <= known or not 1 <= batch <= MOST_BATCH:
        raise ExportError(
            f"cameras is {cameras} and batch {batch}, expected 1 to {known} and 1 to {MOST_BATCH}"
        )
    weights = digest(checkpoint.folder)
    model = load_value_model(checkpoint)
    inputs = _inputs(checkpoint, cameras, batch)
    expected = _probabilities(model, inputs)
    if precision == "fp16":
        halve(model)
        _check_difference("in float16", precision, _probabilities(model, inputs), expected)
    shapes = input_shapes(checkpoint.config, cameras, batch)
    differences = []

    def fill(partial: Path) -> None:
        export = OnnxExport(partial, precision, cameras, batch, shapes, weights)
        _write_graphs(model, inputs, partial)
        write_object(partial / ABOUT, export.entries())
        graphs = OnnxGraphs(export, "cpu", torch.get_num_threads())
        found = _run(graphs, inputs)
        differences.append(_check_difference("in ONNX Runtime", precision, found, expected))
        check_same(checkpoint.folder, checkpoint.written)

    folder = export_folder(checkpoint.folder, precision)
    write_folder(folder, fill, (ABOUT,))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return (
        f"{folder}: {cameras} cameras, {checkpoint.config.history} frames of each, {batch} texts, "
        f"{PRECISIONS[precision]}, {size / 1e6:.1f} MB; probabilities differ by at most "
        f"{differences[0]:.1e} from the model's"
    )


def _write_graphs(model: Model, inputs: Inputs, folder: Path) -> None:
    pixels, mask, ids, id_mask = inputs
    with torch.no_grad():
        features = model.encode(pixels)
    views = features.repeat_interleave(len(mask) // len(pixels), dim=0)
    write_graph(Encoder(model), {"pixels": pixels}, "features", folder / ENCODER)
    given = {"features": views, "mask": mask, "ids": ids, "id_mask": id_mask}
    write_graph(Estimator(model), given, "logits", folder / ESTIMATOR)


def _inputs(checkpoint: ValueCheckpoint, cameras: int, batch: int) -> Inputs:
    """Noise of different brightness, and texts: pixels, mask, ids and their mask."""
    config, interface = checkpoint.config, checkpoint.interface
    assert interface is not None
    generator = torch.Generator().manual_seed(0)
    side = config.image_size
    pixels = torch.rand(cameras, 3, side, side, generator=generator) * 2 - 1
    pixels *= torch.linspace(0.3, 1.0, cameras)[:, None, None, None]
    texts = [(interface.tasks or ("task",))[i % max(1, len(interface.tasks))] for i in range(batch)]
    tokens = value_tokens(checkpoint.tokenizer, texts, config, cameras, fixed=True)
    mask = torch.ones(config.views(cameras), dtype=torch.bool)
    return pixels, mask, tokens.ids, tokens.mask


def _masks(mask: Tensor) -> list[Tensor]:
    """All pictures, and where there are more than one the first alone."""
    first = torch.zeros_like(mask)
    first[0] = True
    return [mask, first] if len(mask) > 1 else [mask]


@torch.no_grad()
def _probabilities(model: Model, inputs: Inputs) -> Tensor:
    pixels, mask, ids, id_mask = inputs
    features = model.encode(pixels).repeat_interleave(len(mask) // len(pixels), dim=0)
    logits = [Estimator(model)(features, one, ids, id_mask) for one in _masks(mask)]
    return torch.cat(logits).softmax(-1)


def _run(graphs: OnnxGraphs, inputs: Inputs) -> Tensor:
    """As ``_probabilities``."""
    pixels, mask, ids, id_mask = inputs
    features = graphs.encode(pixels.numpy()).repeat(len(mask) // len(pixels), axis=0)
    logits = [
        torch.from_numpy(graphs.logits(features, one.numpy(), ids.numpy(), id_mask.numpy()))
        for one in _masks(mask)
    ]
    return torch.cat(logits).softmax(-1)


def _check_difference(where: str, precision: str, found: Tensor, expected: Tensor) -> float:
    """The largest difference.

    Raises:
        ExportError: It is too large, or no number.
    """
    difference = float((found - expected).abs().max())
    if not difference <= MOST_DIFFERENCE[precision]:  # also of what is no number
        raise ExportError(
            f"{where} probabilities differ by {difference:.2g}, expected at most "
            f"{MOST_DIFFERENCE[precision]:g}; nothing was written"
            + ("; export with fp32" if precision == "fp16" else "")
        )
    return difference
