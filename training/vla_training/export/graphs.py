# SPDX-License-Identifier: Apache-2.0
"""Modules as ONNX graphs of static shapes."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

OPSET = 20


def write_graph(module: nn.Module, inputs: Mapping[str, Tensor], output: str, file: Path) -> None:
    """Writes a graph, and checks that it is one.

    Args:
        module: Takes the inputs in their order and returns one tensor.
        inputs: By name; the graph takes these shapes and no others.
        output: Name of what it returns.
        file: To be.
    """
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            verbose=False,
        )
        assert program is not None  # only the older exporter writes a file instead
        # The exporter notes for every node where in whose folders its source stands.
        ClearMetadataAndDocStringPass()(program.model)
        # Weights beyond 1.5 GB do not go into one protocol buffer, and lie in NAME.data.
        program.save(file)
    onnx.checker.check_model(str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says to its own developers from the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
