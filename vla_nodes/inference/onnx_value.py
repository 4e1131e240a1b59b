# SPDX-License-Identifier: Apache-2.0
"""Value functions in ONNX Runtime: graphs of static shapes, as ``vla-export`` makes them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vla_nodes.inference.onnx_folder import (
    ENCODER,
    ESTIMATOR,
    OnnxExport,
    check_export,
    check_shapes,
)
from vla_nodes.inference.value_inputs import arrange, check_probabilities, fit_all, tokenise
from vla_nodes.inference.value_runtime import fit_cameras
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_checkpoint import read_value_checkpoint

TEXTS = 64  # whose tokens are kept

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""By kind of device, the one that must be there first."""


class OnnxGraphs:
    """The two graphs of a value function.

    Args:
        export: What they are.
        device: "cpu", "cuda" or "tensorrt", with a number behind a colon where there are more.
        threads: On a CPU.

    Raises:
        CheckpointError: There is no such device, or a graph is missing, damaged or not what
            ``export`` says.
    """

    def __init__(self, export: OnnxExport, device: str, threads: int) -> None:
        self.export = export
        self._encoder, self._estimator = (
            _session(export.folder / name, device, threads) for name in (ENCODER, ESTIMATOR)
        )
        for name, session, wanted in (
            (ENCODER, self._encoder, ["pixels"]),
            (ESTIMATOR, self._estimator, ["features", "mask", "ids", "id_mask"]),
        ):
            found = {one.name: tuple(one.shape) for one in session.get_inputs()}
            check_shapes(export.folder / name, found, {one: export.shapes[one] for one in wanted})

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Any number of pictures (M, 3, S, S) to (M, P, W), as many at once as the graph takes."""
        return self._in_parts(self._encoder, self.export.cameras, {"pixels": pixels})

    def logits(
        self,
        features: NDArray[Any],
        mask: NDArray[np.bool_],
        ids: NDArray[np.int64],
        id_mask: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """(V, P, W), (V,), and any number of texts, two (N, L), to (N, 201)."""
        texts = {"ids": ids, "id_mask": id_mask}
        shared = {"features": features, "mask": mask}
        return self._in_parts(self._estimator, self.export.batch, texts, shared)

    @staticmethod
    def _in_parts(
        session: onnxruntime.InferenceSession,
        most: int,
        rows: Mapping[str, NDArray[Any]],
        shared: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[Any]:
        """Runs a graph on ``most`` rows at a time; the last ones are repeated to fill it up."""
        count = len(next(iter(rows.values())))
        found = []
        for start in range(0, count, most):
            places = np.minimum(np.arange(start, start + most), count - 1)
            part = {name: row[places] for name, row in rows.items()}
            found.append(session.run(None, {**part, **(shared or {})})[0])
        return np.concatenate(found)[:count]


class OnnxValue:
    """Meets ``value_runtime.ValueRuntime``.

    Args:
        export: What to run, in the folder of its checkpoint.
        device: Where to compute.
        cameras: That there will be, as many as the graphs take.
        threads: On a CPU.

    Raises:
        CheckpointError: The checkpoint or a graph is damaged, they do not belong together, or
            there is no such device.
    """

    def __init__(
        self, export: OnnxExport, device: str, cameras: Sequence[str], *, threads: int
    ) -> None:
        self.checkpoint = read_value_checkpoint(export.folder.parent)
        assert self.checkpoint.interface  # check_folder has seen it
        self.cameras = fit_cameras(self.checkpoint.interface.cameras, cameras)
        check_export(export, self.checkpoint.config)
        self._graphs = OnnxGraphs(export, device, threads)
        self._tokens = lru_cache(TEXTS)(self._tokenise)

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """Features of pictures, each (P, W)."""
        if not pictures:
            return []
        pixels = fit_all(pictures, self.checkpoint.config.image_size).numpy()
        return list(self._graphs.encode(pixels))

    def estimate(
        self, views: Mapping[str, Sequence[NDArray[Any]]], texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """Probabilities (N, 201)."""
        arranged = arrange(views, self.cameras, self.checkpoint.config.history)
        absent = np.zeros_like(next(one for one in arranged if one is not None))
        features = np.stack([absent if one is None else one for one in arranged])
        mask = np.array([one is not None for one in arranged])
        logits = self._graphs.logits(features, mask, *self._tokens(tuple(texts)))
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return check_probabilities(weights / weights.sum(-1, keepdims=True))

    def _tokenise(self, texts: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        tokens = tokenise(self.checkpoint, texts, len(self.cameras), fixed=True)
        return tokens.ids.numpy(), tokens.mask.numpy()


def _session(path: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    providers = _providers(device, path.parent)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait by spinning take the processors from the nodes beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; export it again with vla-export")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} cannot be loaded: {error!s:.300}") from error
    if providers[0][0] not in session.get_providers():  # it only warns of that
        raise CheckpointError(
            f"device '{device}': ONNX Runtime could not start its {providers[0][0]}; CUDA's "
            "libraries are missing or of another version"
        )
    return session


def _providers(device: str, folder: Path) -> list[tuple[str, dict[str, str]]]:
    """What ONNX Runtime is to compute with, and options of each.

    Raises:
        CheckpointError: The device has another name, or this ONNX Runtime was built without it.
    """
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or not (number or "0").isdecimal():
        raise CheckpointError(
            f"device {device!r:.50} is unknown to ONNX Runtime, expected {', '.join(PROVIDERS)}, "
            "or cuda:1 for the second"
        )
    there = onnxruntime.get_available_providers()
    if PROVIDERS[kind][0] not in there:
        raise CheckpointError(
            f"device '{device}' needs ONNX Runtime's {PROVIDERS[kind][0]}, found "
            f"{', '.join(there)}; install onnxruntime-gpu in place of onnxruntime, or choose cpu"
        )
    number = number or "0"
    options = {
        "CPUExecutionProvider": {},
        "CUDAExecutionProvider": {"device_id": number},
        # Without a cache it builds its engines for minutes at every start.
        "TensorrtExecutionProvider": {
            "device_id": number,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / "tensorrt"),
            "trt_fp16_enable": str(int(folder.name.endswith("fp16"))),
        },
    }
    return [(name, options[name]) for name in PROVIDERS[kind] if name in there]
