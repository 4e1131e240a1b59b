# SPDX-License-Identifier: Apache-2.0
"""Ways to run a function of tensors: as it is, or captured once as a CUDA graph and replayed.

A call of the actor starts some ten thousand small kernels. Started one by one from Python they
take longer than they run; replayed as a graph they follow each other without the host.
"""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]

MOST_GRAPHS = 64
"""A robot needs some forty: four for each length of prompts, six with an energy check. Beyond,
functions run as they are."""

WARM_UPS = 3
"""Runs before a capture, in which libraries allocate and compile what they need."""


class Directly:
    """Runs functions as they are."""

    def __call__(self, _: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs ``function`` on ``inputs``."""
        return function(*inputs)

    def state[State](self, _: Hashable, make: Callable[[], State]) -> State:
        """New tensors that functions share."""
        return make()


class CudaGraphs:
    """Captures a function at its first call, and replays it at every call, by key.

    A key stands for the function with the shapes of its inputs. The function must do the same
    to equal inputs however often it has run, and not wait for the device.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graphs: dict[
            Hashable, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]
        ] = {}
        self._states: dict[Hashable, object] = {}
        # Graphs never run at the same time, so that all may work in the same memory; what one
        # returns is copied out before the next runs.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs ``function`` on ``inputs``."""
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                return function(*inputs)
            self._graphs[key] = self._capture(function, inputs)
        graph, places, outputs = self._graphs[key]
        for place, given in zip(places, inputs, strict=True):
            place.copy_(given, non_blocking=True)
        graph.replay()
        return tuple(output.clone() for output in outputs)

    def state[State](self, key: Hashable, make: Callable[[], State]) -> State:
        """Tensors that functions share; the same for a key, as graphs hold their addresses."""
        if key in self._states:
            return self._states[key]  # type: ignore[return-value]
        state = make()
        if len(self._graphs) < MOST_GRAPHS:
            self._states[key] = state
        return state

    def _capture(
        self, function: Function, inputs: tuple[Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]:
        places = tuple(given.to(self._device, copy=True) for given in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            # Libraries keep memory for each stream: what is captured is warm where it was run.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    function(*places)
            torch.cuda.current_stream().wait_stream(self._stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = function(*places)
        return graph, places, outputs
