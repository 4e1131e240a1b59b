# SPDX-License-Identifier: Apache-2.0
"""What was recorded with some inputs is right for others: calls depend on nothing else.

On a CUDA device a recording is what the engine captures there. On any machine the operators of
a call are noted, and done again in the same memory, as a graph does them.
"""

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, prompt
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vla_nodes.inference import cuda_graphs
from vla_nodes.inference.cuda_graphs import CudaGraphs

BUCKET = 16


class Recording(TorchDispatchMode):
    """The operators of a function, with their tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        assert operator is not torch.ops.aten._local_scalar_dense.default, "waits for the device"
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for operator, args, kwargs, result in self.calls:
            again = operator(*args, **kwargs)
            if any(returned.alias_info for returned in operator._schema.returns):
                continue  # a view, or written in place
            for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                place.copy_(value)


class Recorded(CudaGraphs):
    """Records where CUDA graphs are captured, on a CPU."""

    def __init__(self):
        self._graphs, self._states = {}, {}

    def _capture(self, function, inputs):
        places = tuple(given.clone() for given in inputs)
        function(*places)
        with Recording() as recording:
            outputs = function(*places)
        return recording, places, outputs


def results(runs, seed, length):
    """Of every kind of call, with inputs that follow from the seed."""
    words = prompt(length, seed)
    features = runs.encode(pictures(2, seed))
    start, old = noise(2, seed), normal(5, 8, seed=seed)
    calls = {
        "free": runs.act(features, words, noise=start),
        "decided": runs.act(features, words, noise=start, decided=old, delay=1 + seed),
        "mixed": runs.act(
            features,
            words,
            noise=start,
            unconditional=prompt(BUCKET - seed, seed),
            guidance=1.0 + seed,
        ),
    }
    tensors = {name: drawn.actions for name, drawn in calls.items()}
    tensors |= {f"{name}, hidden": drawn.hidden for name, drawn in calls.items()}
    tensors["scores"] = runs.score(features, words, [[seed], [5, 6 + seed]])
    tensors["text"] = torch.tensor(runs.plan(features, words))
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@pytest.mark.parametrize("real_time", ["trained", "guided"])
def test_a_call_recorded_with_some_inputs_is_right_for_others(real_time):
    options = {
        "bucket": BUCKET,
        "hidden": True,
        "real_time": real_time,
        "end_token": 300,
        "steps": 2,
    }
    eager, replayed = engine(**options), engine(**options)
    replayed._run = Recorded()
    results(replayed, seed=0, length=9)
    recorded = set(replayed._run._graphs)
    for seed, length in ((1, 14), (2, 3), (0, 9)):
        torch.testing.assert_close(
            results(replayed, seed, length), results(eager, seed, length), atol=1e-6, rtol=0.0
        )
    assert set(replayed._run._graphs) == recorded


def recorded(**options):
    """An engine whose calls are recorded."""
    runs = engine(bucket=BUCKET, **options)
    runs._run = Recorded()
    return runs


def test_what_was_returned_is_not_written_over_by_the_next_call():
    runs = recorded(hidden=True)
    features = runs.encode(pictures(2))
    drawn = runs.act(features, prompt(9), noise=noise())
    scores = runs.score(features, prompt(9), [[3, 4]])
    kept = [tensor.clone() for tensor in (features, drawn.actions, drawn.hidden, scores)]
    others = runs.encode(pictures(2, seed=1))
    runs.act(others, prompt(5, seed=1), noise=noise(seed=1))
    runs.score(others, prompt(5, seed=1), [[5, 6]])
    for tensor, before in zip((features, drawn.actions, drawn.hidden, scores), kept, strict=True):
        assert torch.equal(tensor, before)


@pytest.mark.parametrize("real_time", ["trained", "guided"])
def test_after_warming_nothing_is_left_to_record(real_time):
    blank = torch.zeros(2, 3, config().image_size, config().image_size)
    direct = engine(end_token=300)
    first = direct.plan(direct.encode(blank), [0] * BUCKET, 1)[0]
    # What the engine warms with makes the planner stop at once; what comes later does not.
    runs = recorded(real_time=real_time, end_token=first)
    runs.warm(2, [BUCKET, BUCKET + 1], decided=True)
    runs.warm(2, [9], texts=[[3, 4]])
    ready = set(runs._run._graphs)
    features = runs.encode(pictures(2))
    runs.act(features, prompt(9))
    runs.act(features, prompt(17), decided=normal(3, 8), delay=1)
    assert len(runs.plan(features, prompt(9))) > 1
    runs.plan(features, prompt(9), 5)
    runs.score(features, prompt(9), [[5, 6]])
    assert set(runs._run._graphs) == ready


def test_numbers_that_are_none_spoil_no_later_plan():
    runs, fresh = recorded(end_token=300), engine(bucket=BUCKET, end_token=300)
    features = runs.encode(pictures(2))
    expected = fresh.plan(features, prompt(9))
    runs.plan(torch.full_like(features, torch.nan), prompt(9))
    assert runs.plan(features, prompt(9)) == expected


@pytest.mark.parametrize("most", [0, 3])
def test_beyond_a_number_of_graphs_calls_are_right_without(monkeypatch, most):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", most)
    runs, eager = recorded(hidden=True, end_token=300), engine(hidden=True, end_token=300)
    for _ in range(2):
        for seed, length in ((0, 9), (1, 20), (2, 40)):
            torch.testing.assert_close(
                results(runs, seed, length), results(eager, seed, length), atol=1e-5, rtol=0.0
            )
    assert len(runs._run._graphs) == most
    assert len(runs._run._states) <= most


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")


@cuda
@pytest.mark.parametrize("real_time", ["trained", "guided"])
def test_graphs_equal_the_cpu(real_time):
    options = {
        "bucket": BUCKET,
        "hidden": True,
        "real_time": real_time,
        "end_token": 300,
        "steps": 2,
    }
    here, there = engine(**options), engine(device="cuda", **options)
    for seed, length in ((0, 9), (1, 14), (2, 3), (0, 9)):
        torch.testing.assert_close(
            results(there, seed, length), results(here, seed, length), atol=1e-4, rtol=1e-4
        )


@cuda
def test_a_call_never_waits_for_the_device():
    runs = engine(device="cuda", bucket=BUCKET)
    runs.warm(2, [9], decided=True, unconditional=True)
    runs.warm(2, [9], texts=[[3, 4]])
    pixels, start = pictures(2).cuda(), noise().cuda()
    old = normal(3, config().max_action_dim).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        features = runs.encode(pixels)
        runs.act(features, prompt(9), noise=start)
        runs.act(features, prompt(9), decided=old, unconditional=prompt(5))
        runs.score(features, prompt(9), [[5, 6]])
    finally:
        torch.cuda.set_sync_debug_mode("default")
