# SPDX-License-Identifier: Apache-2.0
"""How soon a value function estimates: one and three cameras, one text, both architectures.

Compares the model called by hand in PyTorch, eager and in float32, with what the value monitor
can run: PyTorch in bfloat16, and ONNX Runtime on the graphs that ``vla-export`` makes. Weights
are random, and the same for all. A time is that of an estimate with nothing kept from the one
before: pictures of 640 x 480 px are fitted and encoded, the text is read, probabilities come
back. Uses a CUDA device where there is one.

Run it with ``python benchmarks/value_latency.py``. On a CPU that is a small model; the full one,
``--size full``, takes a quarter of an hour on two processors, and 6 GB of disk.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers
from transformers.initialization import no_init_weights

from vla_nodes.inference.value_runtime import load_value_runtime
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import (
    ValueInterface,
    load_value_model,
    read_value_checkpoint,
    write_value_checkpoint,
)
from vla_nodes.models.value_config import ARCHS, SIZES, Arch
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.value_prompt import value_tokens
from vla_training.export.value_onnx import export_value

CAMERAS = ("front", "left", "wrist")
TEXT = "put the red cube in the tray"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 50 if DEVICE == "cuda" else 5


@dataclass(frozen=True)
class Way:
    """A way to run.

    Attributes:
        name: For the table.
        engine: As ``load_value_runtime`` takes it.
        half: Likewise.
    """

    name: str
    engine: str
    half: bool


def main() -> None:
    """Prints a table for each architecture and number of cameras."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = DEVICE == "cuda"
    parser.add_argument("--size", choices=sorted(SIZES), default="full" if gpu else "small")
    parser.add_argument("--arch", choices=ARCHS, help="one; else both")
    parser.add_argument("--repeats", type=int, default=ROUNDS, help="timed estimates of each")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for arch in [given.arch] if given.arch else ARCHS:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write(Path(folder) / "value", given.size, arch)
            for count in (1, 3):
                compare(checkpoint, given.size, CAMERAS[:count], given.repeats)


def ways() -> list[Way]:
    """Those that there are here."""
    found = [Way("PyTorch, bfloat16", "torch", True)]
    if DEVICE == "cpu":
        found.append(Way("ONNX Runtime, float32", "onnxruntime", False))
    elif "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        found.append(Way("ONNX Runtime, float16", "onnxruntime", True))
    return found


def compare(folder: Path, size: str, cameras: tuple[str, ...], repeats: int) -> None:
    """Prints a line for each way, with the model called by hand as the unit."""
    arch = read_value_checkpoint(folder).config.arch
    print(f"\n{arch}, {size}, {len(cameras)} cameras on {DEVICE}, {repeats} estimates\n")
    print(f"{'':26}{'median ms':>10}{'p95':>10}{'ratio':>8}{'cosine':>10}")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (480, 640, 3), np.uint8) for _ in cameras]
    millis, expected = timed(by_hand(folder, pictures), repeats)
    unit = statistics.median(millis)
    line("PyTorch, eager, float32", millis, unit, 1.0)
    for way in ways():
        if way.engine == "onnxruntime":
            export_value(folder, len(cameras), 1, "fp16" if way.half else "fp32")
        millis, found = timed(by_runtime(folder, way, cameras, pictures), repeats)
        line(way.name, millis, unit, cosine(found, expected))


def by_hand(folder: Path, pictures: list[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float32]]:
    """An estimate by the model itself, (1, 201)."""
    checkpoint = read_value_checkpoint(folder)
    config = checkpoint.config
    model = load_value_model(checkpoint, device=DEVICE)

    @torch.inference_mode()
    def estimate() -> NDArray[np.float32]:
        given = [torch.tensor(one, device=DEVICE).permute(2, 0, 1)[None] for one in pictures]
        pixels = torch.cat([fit_pictures(one, config.image_size) for one in given])
        tokens = value_tokens(checkpoint.tokenizer, [TEXT], config, len(pictures))
        mask = torch.ones(1, len(pictures), dtype=torch.bool, device=DEVICE)
        features = model.encode(pixels)[None]
        logits = model(features, mask, tokens.ids.to(DEVICE), tokens.mask.to(DEVICE))
        return logits.softmax(-1).cpu().numpy()

    return estimate


def by_runtime(
    folder: Path, way: Way, cameras: tuple[str, ...], pictures: list[NDArray[np.uint8]]
) -> Callable[[], NDArray[np.float32]]:
    """An estimate as the value monitor makes it, (1, 201)."""
    runtime = load_value_runtime(folder, way.engine, DEVICE, cameras, half=way.half)

    def estimate() -> NDArray[np.float32]:
        features = runtime.encode(pictures)
        views = {camera: [one] for camera, one in zip(cameras, features, strict=True)}
        return runtime.estimate(views, [TEXT])

    return estimate


def timed(
    call: Callable[[], NDArray[np.float32]], repeats: int
) -> tuple[list[float], NDArray[np.float32]]:
    """Milliseconds of calls behind one that is not counted, and what the last one returned."""
    found = call()
    millis = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = call()
        millis.append(1e3 * (time.perf_counter() - start))
    return millis, found


def line(name: str, millis: list[float], unit: float, angle: float) -> None:
    """Prints one."""
    p50, p95 = np.percentile(millis, (50, 95))
    print(f"{name:26}{p50:10.1f}{p95:10.1f}{p50 / unit:8.2f}{angle:10.5f}", flush=True)


def cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Of the angle between the logits of two distributions, less their means."""
    a, b = (np.log(p[0]) - np.log(p[0]).mean() for p in (found, expected))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def write(folder: Path, size: str, arch: Arch) -> Path:
    """A checkpoint with random weights of unit variance."""
    config = SIZES[size](arch)
    with no_init_weights():
        model = make_value_model(config)
    # Drawing hundreds of millions of numbers takes long; these repeat, with a period that fits
    # no row.
    block = torch.randn(999_983, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            for part in parameter.view(-1).split(len(block)):
                part.copy_(block[: len(part)]).mul_(fan_in**-0.5)
    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    interface = ValueInterface(CAMERAS, 10.0, (TEXT,), 0, (0.8, 0.1, 0.1), {})
    write_value_checkpoint(folder, model, config, interface, Tokenizer(tokenizer))
    return folder


if __name__ == "__main__":
    main()
