# SPDX-License-Identifier: Apache-2.0
"""Folders with a value function's graphs in ONNX, which lie in its checkpoint's.

``encoder.onnx``, ``value.onnx``, and ``onnx.json``, which says what they are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object
from vla_nodes.models.stored_tensors import FILE
from vla_nodes.models.value_config import ValueConfig

ENCODER, ESTIMATOR, ABOUT = "encoder.onnx", "value.onnx", "onnx.json"
PRECISIONS = {"fp32": "float32", "fp16": "float16"}

type Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class OnnxExport:
    """What a folder's graphs are, for static shapes know no other.

    Attributes:
        folder: Where they lie.
        precision: Of the products, "fp32" or "fp16".
        cameras: Whose pictures they take at once.
        batch: Texts that they take at once.
        shapes: Of their inputs, by name.
        weights: SHA-256 of the checkpoint's weights that they hold.
    """

    folder: Path
    precision: str
    cameras: int
    batch: int
    shapes: Shapes
    weights: str

    def entries(self) -> dict[str, Any]:
        """As ``onnx.json`` holds it."""
        return {
            "precision": self.precision,
            "cameras": self.cameras,
            "batch": self.batch,
            "shapes": self.shapes,
            "weights": self.weights,
        }


def export_folder(checkpoint: Path, precision: str) -> Path:
    """Where the graphs of a checkpoint lie."""
    return checkpoint / f"onnx-{precision}"


def input_shapes(config: ValueConfig, cameras: int, batch: int) -> Shapes:
    """Of the graphs' inputs, by name; ``pixels`` are the encoder's, all others the estimator's."""
    views, tokens = config.views(cameras), config.image_tokens
    pictures = views * tokens if config.arch == "stitched" else 0
    return {
        "pixels": (cameras, 3, config.image_size, config.image_size),
        "features": (views, tokens, config.vision.width),
        "mask": (views,),
        "ids": (batch, config.max_tokens + pictures),
        "id_mask": (batch, config.max_tokens + pictures),
    }


def read_export(checkpoint: Path, precision: str, cameras: int) -> OnnxExport:
    """Reads what the graphs of a checkpoint are.

    Args:
        checkpoint: Its folder.
        precision: "fp32" or "fp16".
        cameras: That there will be.

    Raises:
        CheckpointError: There are none, or they are for another number of cameras.
    """
    folder = export_folder(checkpoint, precision)
    if not (folder / ABOUT).is_file():
        raise CheckpointError(
            f"{folder} holds no exported value function; make it with vla-export value "
            f"{checkpoint} --precision {precision} --cameras {cameras}"
        )
    entries = Entries(folder / ABOUT, read_object(folder / ABOUT))
    shapes = entries.part("shapes")
    names = ("pixels", "features", "mask", "ids", "id_mask")
    export = OnnxExport(
        folder,
        entries.choice("precision", {precision: precision}),
        entries.integer("cameras"),
        entries.integer("batch"),
        {name: shapes.shape(name) for name in names},
        str(entries.raw("weights")),
    )
    for part in (shapes, entries):
        part.refuse_left()
    if export.cameras != cameras:
        raise CheckpointError(
            f"{folder} is for {export.cameras} cameras, expected {cameras}; export it again with "
            f"vla-export value {checkpoint} --precision {precision} --cameras {cameras}"
        )
    return export


def check_export(export: OnnxExport, config: ValueConfig) -> None:
    """Checks that graphs were made of the checkpoint in whose folder they lie.

    Raises:
        CheckpointError: They are of other shapes, or hold other weights.
    """
    check_shapes(
        export.folder / ABOUT, export.shapes, input_shapes(config, export.cameras, export.batch)
    )
    if export.weights != digest(export.folder.parent):
        raise CheckpointError(
            f"{export.folder} holds other weights than {export.folder.parent / FILE}, which was "
            "trained on since; export it again with vla-export"
        )


def check_shapes(place: Path, found: Shapes, expected: Shapes) -> None:
    """Compares the shapes of inputs.

    Raises:
        CheckpointError: They differ.
    """
    if found != expected:
        raise CheckpointError(
            f"{place} takes {_listed(found)}, expected {_listed(expected)}; export it again with "
            "vla-export"
        )


def digest(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's weights; takes half a second for each GB.

    Raises:
        CheckpointError: There is no such file.
    """
    try:
        with (checkpoint / FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{checkpoint / FILE} cannot be read: {error!s:.200}") from error


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
