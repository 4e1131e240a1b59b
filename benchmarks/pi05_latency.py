# SPDX-License-Identifier: Apache-2.0
"""How soon pi0.5 acts and plans: three cameras, a prompt of 200 tokens, chunks of 50 actions.

Compares ``Pi05Engine`` with LeRobot's ``sample_actions`` in bfloat16 on the same weights, which
are random, each in a process of its own, eager and compiled; then measures what more candidates
cost, and how fast the planner writes beside a planner that reads everything again for each
token. ``wide`` is the full model's width with two layers. Uses a CUDA device where there is one.

Run it with ``python benchmarks/pi05_latency.py``, for less with ``--only medium``.
"""

import argparse
import dataclasses
import functools
import gc
import itertools
import logging
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.initialization import no_init_weights

from vla_nodes.inference.engine import EngineOptions, Pi05Engine
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config, full, medium, small

VIEWS, PROMPT = 3, 200
CANDIDATES = (1, 4, 8, 16)
WRITTEN = 16  # tokens of a subtask
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 50 if DEVICE == "cuda" else 3
WARM_UPS = 3 if DEVICE == "cuda" else 1  # PyTorch's own CUDA graphs replay from the third call on


def main() -> None:
    """Prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # The full size takes a quarter of an hour on a CPU, and compiling LeRobot's module much more.
    gpu = DEVICE == "cuda"
    sizes = ["medium", "full"] if gpu else ["medium"]
    parser.add_argument("--only", choices=sorted(configs()), help=f"one size; else {sizes}")
    parser.add_argument("--repeats", type=int, default=ROUNDS, help="timed calls of each")
    parser.add_argument("--compiled", action="store_true", default=gpu, help="compiled as well")
    given = parser.parse_args()
    for size in [given.only] if given.only else sizes:
        print(f"\n{size}, bfloat16 on {DEVICE}, median of {given.repeats} calls\n", flush=True)
        compare(size, given.repeats, [False, True] if given.compiled else [False])
        # On a CPU the shapes to come would each be compiled, for minutes.
        print(*alone(measure_engine, size, given.repeats, gpu), sep="\n", flush=True)


def configs() -> dict[str, Pi05Config]:
    """By name."""
    whole = full()
    two = {
        part: dataclasses.replace(getattr(whole, part), depth=2)
        for part in ("vision", "language", "expert")
    }
    return {
        "full": whole,
        "medium": medium(),
        # LeRobot's module fixes 8 heads and prompts here are long.
        "small": dataclasses.replace(
            small(),
            language=dataclasses.replace(small().language, heads=8),
            expert=dataclasses.replace(small().expert, heads=8),
            max_prompt_tokens=PROMPT,
        ),
        "wide": dataclasses.replace(whole, **two, vocabulary=8192),
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a process of its own, so that its memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


# --- against LeRobot ------------------------------------------------------------------------


def compare(size: str, repeats: int, ways: list[bool]) -> None:
    """Prints a line for each way to run, with LeRobot's eager one as the unit."""
    print(f"{'':24}{'p50 ms':>10}{'p95':>10}{'p99':>10}{'ratio':>8}{'peak GB':>10}{'cosine':>10}")
    unit: tuple[float, np.ndarray] | None = None
    for (name, function), compiled in itertools.product(
        (("LeRobot", time_lerobot), ("Pi05Engine", time_engine)), ways
    ):
        millis, memory, actions = alone(function, size, repeats, compiled)
        unit = unit or (statistics.median(millis), actions)
        p50, p95, p99 = np.percentile(millis, (50, 95, 99))
        print(
            f"{name + (', compiled' if compiled else ', eager'):24}"
            f"{p50:10.1f}{p95:10.1f}{p99:10.1f}{p50 / unit[0]:8.2f}{memory:10.2f}"
            f"{cosine(actions, unit[1]):10.5f}",
            flush=True,
        )


def time_lerobot(size: str, repeats: int, compiled: bool) -> tuple[list[float], float, np.ndarray]:
    """Milliseconds of calls, peak memory in GB, and actions."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))
    from lerobot_twin import lerobot_inputs, lerobot_twin

    quiet()
    twin = lerobot_twin(make_model(size), "bfloat16").to(DEVICE)
    if compiled:  # as its option compile_model does; its default mode takes hours on a CPU
        torch.set_float32_matmul_precision("high")
        mode = "max-autotune" if DEVICE == "cuda" else "default"
        twin.sample_actions = torch.compile(twin.sample_actions, mode=mode)
    pictures, prompt, noise = (part.to(DEVICE) for part in inputs(size))
    there = torch.ones(1, len(pictures), dtype=torch.bool, device=DEVICE)
    words = Tokens(prompt[None], torch.ones_like(prompt[None], dtype=torch.bool))
    given = lerobot_inputs(Views(pictures[None], there), words)
    return timed(lambda: twin.sample_actions(*given, noise=noise)[0], repeats)


def time_engine(size: str, repeats: int, compiled: bool) -> tuple[list[float], float, np.ndarray]:
    """Likewise."""
    quiet()
    pictures, prompt, noise = inputs(size)
    engine = make_engine(make_model(size), compile=compiled)
    words = prompt.tolist()
    return timed(
        lambda: engine.act(engine.encode(pictures), words, noise=noise).actions[0], repeats
    )


def timed(call: Callable[[], Tensor], repeats: int) -> tuple[list[float], float, np.ndarray]:
    """Milliseconds of calls, peak memory in GB, and what the last call returned."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    millis = durations(call, repeats)
    result = call().float().cpu().numpy()
    return millis, peak_memory(), result


def durations(call: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds of calls, behind some that are not counted."""
    for _ in range(WARM_UPS):
        call()
    millis = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        millis.append(1e3 * (time.perf_counter() - start))
    return millis


def median(call: Callable[[], Any], repeats: int) -> float:
    """In milliseconds."""
    return statistics.median(durations(call, repeats))


# --- the engine's own figures ---------------------------------------------------------------


def measure_engine(size: str, repeats: int, compiled: bool) -> list[str]:
    """Lines: shares of a call, cost of candidates, the planner, and kernels on CUDA."""
    quiet()
    pictures, prompt, noise = inputs(size)
    model, words = make_model(size), prompt.tolist()
    config = model.config
    engine = make_engine(model, steps=1, compile=compiled)
    vision = median(lambda: engine.encode(pictures), repeats)
    features = engine.encode(pictures)
    one = median(lambda: engine.act(features, words, noise=noise), repeats)
    del engine
    gc.collect()  # its merged weights go, before the next merges them again
    engine = make_engine(model, end_token=config.vocabulary - 1, compile=compiled)
    whole = median(lambda: engine.act(features, words, noise=noise), repeats)
    expert = (whole - one) * config.steps / (config.steps - 1)
    shares = {"vision": vision, "prefix": whole - expert, "expert": expert}
    total = vision + whole
    lines = ["", *(f"{name:24}{ms:10.1f} ms{ms / total:8.0%}" for name, ms in shares.items()), ""]

    costs: list[float] = []
    for count in CANDIDATES:
        many = noise.expand(count, -1, -1)
        act = functools.partial(engine.act, features, words, noise=many)
        costs.append(vision + median(act, repeats))
        lines.append(f"K = {count:<20}{costs[-1]:10.1f} ms{costs[-1] / costs[0]:8.2f} of K = 1")

    lines += ["", *measure_planner(engine, model, features, pictures, prompt, repeats)]
    if DEVICE == "cuda":
        lines += ["", count_kernels(lambda: engine.act(engine.encode(pictures), words))]
    return lines


def measure_planner(
    engine: Pi05Engine,
    model: Pi05,
    features: Tensor,
    pictures: Tensor,
    prompt: Tensor,
    repeats: int,
) -> list[str]:
    """Lines: tokens a second, with a cache and without."""
    words, ids = prompt.tolist(), prompt[None].to(DEVICE)
    wrote = max(1, len(engine.plan(features, words, WRITTEN)))
    cached = median(lambda: engine.plan(features, words, WRITTEN), repeats) / wrote
    there = torch.ones(1, len(pictures), dtype=torch.bool, device=DEVICE)
    views = Views(pictures[None].to(DEVICE, torch.bfloat16), there)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    again = median(lambda: model.next_token(views, tokens), repeats)
    return [
        f"planner, {wrote} tokens{'':5}{1e3 / cached:10.2f} tokens/s with the prefix",
        f"{'all again for each':24}{1e3 / again:10.2f} tokens/s; ratio {again / cached:.1f}",
    ]


def count_kernels(call: Callable[[], Any]) -> str:
    """A line: how often a call starts something from the host, and what runs on the device."""
    call()  # captured now, if it was not before
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        synchronise()
    events = profiler.events()
    starts = sum(
        event.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch")) for event in events
    )
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    return f"{starts} launches a call from the host, {kernels} kernels and copies on the device"


# --- weights and inputs ---------------------------------------------------------------------


def make_model(size: str) -> Pi05:
    """The same random weights in every process, of unit variance, no gate closed."""
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = Pi05(configs()[size]).eval()
    torch.set_default_dtype(torch.float32)
    # Drawing billions of numbers takes minutes; these repeat, with a period that fits no row.
    block = torch.randn(999_983, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            for part in parameter.view(-1).split(len(block)):
                part.copy_(block[: len(part)]).mul_(fan_in**-0.5)
    return model


def make_engine(model: Pi05, **options: Any) -> Pi05Engine:
    """In bfloat16."""
    return Pi05Engine(model, EngineOptions(device=DEVICE, dtype="bfloat16", **options))


def inputs(size: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (V, 3, S, S), a prompt (L,), and noise (1, T, A)."""
    config, generator = configs()[size], torch.Generator().manual_seed(1)
    side = config.image_size
    return (
        torch.rand(VIEWS, 3, side, side, generator=generator) * 2 - 1,
        torch.randint(config.vocabulary, (PROMPT,), generator=generator),
        torch.randn(1, config.chunk, config.max_action_dim, generator=generator),
    )


def quiet() -> None:
    """Keeps warnings out of the table."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def synchronise() -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_memory() -> float:
    """In GB: of the device, or of this process."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between them."""
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


if __name__ == "__main__":
    main()
