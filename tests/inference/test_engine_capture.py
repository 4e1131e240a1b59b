# SPDX-License-Identifier: Apache-2.0
"""What was recorded with some inputs is right for others: calls depend on nothing else.

On any machine a recording is PyTorch's trace of the operators, which fails where Python looks at
a value; on a CUDA device it is what the engine captures there.
"""

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, prompt
from torch.fx.experimental.proxy_tensor import make_fx

BUCKET = 16


class Traced:
    """Takes the place of CUDA graphs: traces at the first call, replays at every call."""

    def __init__(self):
        self.recorded, self.states = {}, {}

    def __call__(self, key, function, *inputs):
        if key not in self.recorded:
            self.recorded[key] = make_fx(lambda *places: function(*places))(*inputs)
        return self.recorded[key](*inputs)

    def state(self, key, make):
        if key not in self.states:
            self.states[key] = make()
        return self.states[key]


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
def test_a_call_traced_with_some_inputs_is_right_for_others(real_time):
    options = {
        "bucket": BUCKET,
        "hidden": True,
        "real_time": real_time,
        "end_token": 300,
        "steps": 2,
    }
    eager, replayed = engine(**options), engine(**options)
    replayed._run = Traced()
    results(replayed, seed=0, length=9)
    recorded = set(replayed._run.recorded)
    for seed, length in ((1, 14), (2, 3), (0, 9)):
        torch.testing.assert_close(
            results(replayed, seed, length), results(eager, seed, length), atol=1e-6, rtol=0.0
        )
    assert set(replayed._run.recorded) == recorded


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
