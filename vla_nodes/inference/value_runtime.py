# SPDX-License-Identifier: Apache-2.0
"""Value functions at work, whatever runs them.

Loading PyTorch and the models' libraries takes seconds, so what is wrong with a folder is said
before that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vla_nodes.inference.onnx_folder import read_export
from vla_nodes.inference.processors import share_processors
from vla_nodes.models.checkpoint_folder import CONFIG
from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object
from vla_nodes.models.stored_tensors import stored_tensors
from vla_nodes.models.tokenizer import TOKENIZER, Tokenizer
from vla_nodes.models.value_config import INTERFACE, TYPE

if TYPE_CHECKING:
    from vla_nodes.models.value_checkpoint import ValueCheckpoint

Engine = Literal["torch", "onnxruntime"]
ENGINES: tuple[Engine, ...] = ("torch", "onnxruntime")

type Features = Any
"""Of one picture, (P, W), in whatever form the engine keeps them."""


class ValueRuntime(Protocol):
    """A value function that is loaded. Its methods are never called at the same time.

    Pictures are encoded apart, so that a history of them is encoded once, however many estimates
    and texts it serves.

    Attributes:
        checkpoint: What runs.
        cameras: Those that there are, in the model's order.
    """

    checkpoint: "ValueCheckpoint"
    cameras: tuple[str, ...]

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Features]:
        """Features of pictures.

        Args:
            pictures: Each (H, W, 3) uint8 RGB, of any size.

        Returns:
            One for each picture.

        Raises:
            ValueError: A picture has another shape or type.
        """

    def estimate(
        self, views: Mapping[str, Sequence[Features]], texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """How far tasks have come.

        Args:
            views: By camera the features of ``config.history`` pictures, ``history_step`` s
                apart, the oldest first. A camera that is not there is absent.
            texts: N tasks or subtasks.

        Returns:
            (N, 201), probabilities of the atoms of ``models.c51``.

        Raises:
            ValueError: A camera is unknown or has another number of pictures, or there is none;
                a text is empty, absurdly long, or has what the tokenizer does not know.
            RuntimeError: The model gave what are no numbers.
        """


def load_value_runtime(
    folder: str | Path,
    engine: Engine,
    device: str,
    cameras: Sequence[str],
    *,
    half: bool | None = None,
) -> ValueRuntime:
    """Loads a value function.

    Args:
        folder: Of its checkpoint.
        engine: "torch", or "onnxruntime" for what ``vla-export`` made.
        device: "cpu" or "cuda", "cuda:1" for the second; "tensorrt" with ONNX Runtime.
        cameras: That there will be; some of the checkpoint's, in any order.
        half: Whether numbers have 16 bits: bfloat16 in PyTorch, float16 in ONNX Runtime. None
            for not on a CPU only.

    Raises:
        CheckpointError: The checkpoint or its export is missing, damaged or for other cameras,
            or there is no such device.
    """
    folder = Path(folder).expanduser()
    if engine not in ENGINES:
        raise CheckpointError(f"engine is {engine!r:.50}, expected {' or '.join(ENGINES)}")
    check_folder(folder, cameras)
    threads = share_processors()
    half = not device.startswith("cpu") if half is None else half
    try:
        if engine == "torch":
            from vla_nodes.inference.torch_value import TorchValue

            return TorchValue(folder, device, cameras, half=half)
        export = read_export(folder, "fp16" if half else "fp32", len(cameras))
        from vla_nodes.inference.onnx_value import OnnxValue

        return OnnxValue(export, device, cameras, threads=threads)
    except RuntimeError as error:  # out of memory, for one
        raise CheckpointError(f"{folder} cannot be loaded: {error!r:.300}") from error


def check_folder(folder: Path, cameras: Sequence[str]) -> None:
    """Checks all that can be without PyTorch.

    Raises:
        CheckpointError: It is no value function, has no weights or tokenizer, or was trained with
            other cameras.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder '{folder}'; expected that of a value function")
    kind = read_object(folder / CONFIG).get("type")
    if kind != TYPE:
        raise CheckpointError(
            f"{folder / CONFIG}: type is {kind!r:.50}, expected {TYPE!r}: this is no value function"
        )
    file = folder / INTERFACE
    if not file.exists():
        raise CheckpointError(
            f"{folder} was aligned only and gives no values; train it with vla-train value"
        )
    fit_cameras(Entries(file, read_object(file)).names("cameras") or (), cameras)
    Tokenizer.read(folder / TOKENIZER)
    if not any(stored_tensors(folder)):
        raise CheckpointError(f"{folder} has no weights")


def fit_cameras(known: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Cameras that there are, in the order of those that a model knows.

    Raises:
        CheckpointError: There is none, one twice, or one that the model does not know.
    """
    for camera in given:
        if camera not in known:
            raise CheckpointError(
                f"camera {camera!r:.100} is unknown to the value function, which looks at "
                f"{', '.join(known)}"
            )
    if not given or len(set(given)) < len(given):
        raise CheckpointError(
            f"cameras are {list(given)}, expected one or more of {', '.join(known)}, each once"
        )
    return tuple(camera for camera in known if camera in given)
