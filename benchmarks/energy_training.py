# SPDX-License-Identifier: Apache-2.0
"""A training step of the energy model, in which every chunk of a batch meets every context.

Three ways to the same B x B energies, each in a process of its own, forward and backward:

- naive: contexts and chunks are repeated to B · B pairs, and the model sees the pairs.
- naive by rows: the same for a context at a time, which takes a B-th of the memory.
- factored: contexts and chunks are encoded once (``EnergyModel.swapped``).

Memory is what the process holds at most beyond the model and its batch; operations are those of
matrix products. Uses a CUDA device where there is one.

Run it with ``python benchmarks/energy_training.py``. The naive forms of the largest size take
minutes on two processors; ``--short`` leaves them out. A form is left out too where the memory is
not enough for what it has to keep for the backward pass.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_config import EnergyConfig
from vla_training.energy.losses import explicit_infonce, swap_infonce

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIONS = 7
REPEATS = 5


class Size(NamedTuple):
    """Of a batch: B frames with S hidden states of width D, and T actions each."""

    rows: int
    length: int
    width: int
    steps: int


class Cost(NamedTuple):
    """Of a step: operations, and bytes that are kept for the backward pass."""

    flops: float
    kept: float


SIZES = (Size(8, 150, 2048, 8), Size(8, 150, 2048, 50), Size(32, 600, 4096, 8))


def main() -> None:
    """Prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=4, metavar=("B", "S", "D", "T"), help="one")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="timed steps of each form")
    parser.add_argument("--short", action="store_true", help="no naive forms of the largest size")
    given = parser.parse_args()
    for size in [Size(*given.size)] if given.size else SIZES:
        compare(size, ["factored"] if given.short and size == SIZES[-1] else list(FORMS), given)


def compare(size: Size, forms: list[str], given: argparse.Namespace) -> None:
    """Prints a line for each form, with the factored one as the unit."""
    print(f"\nB {size.rows}, S {size.length}, D {size.width}, T {size.steps} on {DEVICE}\n")
    print(
        f"{'':16}{'median ms':>10}{'ratio':>8}{'peak MB':>10}{'ratio':>8}{'GFLOP':>10}{'ratio':>8}"
    )
    units = None
    for form in reversed(forms):
        cost = cost_of(size, form)
        if 1.5 * cost.kept > (free := free_memory()):  # gradients take more
            print(
                f"{form:16}  left out: {cost.flops / 1e9:.0f} GFLOP, and keeps "
                f"{cost.kept / 1e9:.0f} GB of {free / 1e9:.0f}"
            )
            continue
        slow = form != "factored" and size == SIZES[-1]
        millis, peak = in_a_process(size, form, 0 if slow else given.repeats)
        found = (millis, peak / 1e6, cost.flops / 1e9)
        units = units or found
        columns = [f"{a:10.0f}{a / b:8.2f}" for a, b in zip(found, units, strict=True)]
        print(f"{form:16}{''.join(columns)}", flush=True)


def in_a_process(size: Size, form: str, repeats: int) -> tuple[float, float]:
    """``measure`` in a process whose memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, size, form, repeats).result()


def measure(size: Size, form: str, repeats: int) -> tuple[float, float]:
    """Median milliseconds of steps behind the first, and the most bytes that one held."""
    model, hidden, actions = make(size)
    before, millis = held(), []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        FORMS[form](model, hidden, actions)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        millis.append(1e3 * (time.perf_counter() - start))
    return statistics.median(millis[1:] or millis), held() - before


def cost_of(size: Size, form: str) -> Cost:
    """Counted on tensors without contents."""
    kept: dict[int, int] = {}
    most = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal most
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        most = max(most, sum(kept.values()))
        return tensor

    def release(tensor: Tensor) -> Tensor:
        kept.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model, hidden, actions = make(size)
        model.checks = False
        with torch.autograd.graph.saved_tensors_hooks(keep, release):
            FORMS[form](model, hidden, actions)
    return Cost(counter.get_total_flops(), most)


def make(size: Size) -> tuple[EnergyModel, Tensor, Tensor]:
    """A model and a batch."""
    with torch.device(DEVICE):
        model = EnergyModel(EnergyConfig(size.width, ACTIONS)).eval()  # no form draws dropout
        hidden = torch.randn(size.rows, size.length, size.width)
        return model, hidden, torch.randn(size.rows, size.steps, ACTIONS)


def factored(model: EnergyModel, hidden: Tensor, actions: Tensor) -> None:
    """Every context and every chunk once."""
    swap_infonce(model.swapped(model.context(hidden), actions)).loss.mean().backward()


def naive(model: EnergyModel, hidden: Tensor, actions: Tensor) -> None:
    """Every pair."""
    rows = len(hidden)
    contexts = hidden[:, None].expand(-1, rows, -1, -1).flatten(0, 1)
    chunks = actions[None].expand(rows, -1, -1, -1).flatten(0, 1)
    swap_infonce(model(contexts, chunks).view(rows, rows)).loss.mean().backward()


def naive_by_rows(model: EnergyModel, hidden: Tensor, actions: Tensor) -> None:
    """Every pair, with those of a context at a time."""
    rows = len(hidden)
    for row in range(rows):
        energies = model(hidden[row].repeat(rows, 1, 1), actions)
        others = torch.cat([energies[:row], energies[row + 1 :]])
        (explicit_infonce(energies[row, None], others[None]).loss.sum() / rows).backward()


def held() -> int:
    """Most bytes that this process has held so far."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    # Unlike ru_maxrss this begins anew in a new process.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def free_memory() -> int:
    """Bytes that a process can have."""
    return torch.cuda.mem_get_info()[0] if DEVICE == "cuda" else psutil.virtual_memory().available


FORMS = {"naive": naive, "naive by rows": naive_by_rows, "factored": factored}

if __name__ == "__main__":
    main()
