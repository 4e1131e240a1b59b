# SPDX-License-Identifier: Apache-2.0
"""What the energy check adds to a call of pi0.5, and what drawing again costs.

The same random weights run with and without an energy model of the default size, in turns, so
that whatever else the machine does slows both. A call is pictures, prompt and K chunks; three
cameras, a prompt of 200 tokens, chunks of 50 actions. Uses a CUDA device where there is one.

Run it with ``python benchmarks/energy_gate.py``, for less with ``--only small --repeats 3``.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pi05_latency import CANDIDATES, DEVICE, ROUNDS, configs, inputs, make_model, quiet, synchronise

from vla_nodes.inference.engine import DTYPES, EngineOptions, Pi05Engine
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_config import EnergyConfig
from vla_nodes.models.pi05 import Pi05

JOINTS = 7
SIZES = ("small", "medium")


def main() -> None:
    """Prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(configs()), help=f"one size; else {SIZES}")
    parser.add_argument("--repeats", type=int, default=ROUNDS, help="timed calls of each")
    # On a CPU without bfloat16 it is the slower one.
    dtype = "bfloat16" if DEVICE == "cuda" else "float32"
    parser.add_argument("--dtype", choices=sorted(DTYPES), default=dtype)
    given = parser.parse_args()
    quiet()
    for size in [given.only] if given.only else SIZES:
        print(f"\n{size}, {given.dtype} on {DEVICE}, median of {given.repeats} calls\n")
        print(f"{'K':>4}{'unchecked ms':>14}{'checked':>10}{'added':>8}{'ratio':>8}{'again':>10}")
        for line in measure(size, given.repeats, given.dtype):
            print(line, flush=True)


def measure(size: str, repeats: int, dtype: str) -> Iterator[str]:
    """A line for each number of candidates."""
    model = make_model(size)
    plain, checked = engines(model, dtype)
    pictures, prompt, noise = inputs(size)
    words = prompt.tolist()
    for count in CANDIDATES:
        many = noise.expand(count, -1, -1)
        drawn = checked.act(checked.encode(pictures), words, noise=many)

        def call(engine: Pi05Engine, many: torch.Tensor = many) -> Any:
            return engine.act(engine.encode(pictures), words, noise=many).actions

        def again(drawn: Any = drawn, many: torch.Tensor = many) -> Any:
            return checked.again(drawn, many).actions

        without, with_check, redrawn = in_turns(
            [lambda: call(plain), lambda: call(checked), again], repeats
        )
        added = statistics.median(b - a for a, b in zip(without, with_check, strict=True))
        base = statistics.median(without)
        yield (
            f"{count:4}{base:14.1f}{statistics.median(with_check):10.1f}{added:8.1f}"
            f"{1 + added / base:8.3f}{statistics.median(redrawn):10.1f}"
        )


def engines(model: Pi05, dtype: str) -> tuple[Pi05Engine, Pi05Engine]:
    """Without an energy model and with one, on the same weights."""
    torch.manual_seed(0)
    energy = EnergyModel(EnergyConfig(model.config.language.width, JOINTS))
    options = EngineOptions(device=DEVICE, dtype=dtype)  # type: ignore[arg-type]
    return Pi05Engine(model, options), Pi05Engine(model, options, energy)


def in_turns(calls: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Milliseconds of each call, one after the other in every round; the first does not count."""
    millis: list[list[float]] = [[] for _ in calls]
    for number in range(repeats + 1):
        for call, kept in zip(calls, millis, strict=True):
            synchronise()
            start = time.perf_counter()
            call()
            synchronise()
            if number:
                kept.append(1e3 * (time.perf_counter() - start))
    return millis


if __name__ == "__main__":
    main()
