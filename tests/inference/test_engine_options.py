# SPDX-License-Identifier: Apache-2.0
"""What options mean, and that what does not fit is named in one clear error."""

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, prompt

from vla_nodes.inference.engine import EngineOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, r"dtype 'float16', expected one of float32, bfloat16"),
        ({"candidates": 0}, r"candidates 0, expected 1 or more"),
        ({"steps": -1}, r"steps -1, expected 1 or more"),
        ({"bucket": 0}, r"bucket 0, expected 1 or more"),
        ({"real_time": "off"}, r"real_time 'off', expected trained or guided"),
        ({"max_guidance": float("nan")}, r"max_guidance nan, expected above 0 and finite"),
        ({"max_guidance": float("inf")}, r"max_guidance inf, expected above 0 and finite"),
        ({"device": "gpu"}, r"device 'gpu', expected"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("options", "multiple"),
    [
        ({}, 1),
        ({"device": "cuda", "cuda_graphs": False}, 1),
        ({"device": "cuda"}, 32),
        ({"compile": True}, 32),
        ({"device": "cuda", "bucket": 4}, 4),
        ({"compile": True, "bucket": 1}, 1),
    ],
)
def test_prompts_are_padded_where_every_new_length_costs(options, multiple, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert EngineOptions(**options).multiple == multiple


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="PyTorch finds no CUDA device"):
        EngineOptions(device="cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": normal(4, 31)}, r"features \(4, 31\), expected \(V · 4, 32\)"),
        ({"features": normal(6, 32)}, r"features \(6, 32\), expected \(V · 4, 32\)"),
        ({"prompt": []}, r"prompt of 0 tokens, expected 1 to 64"),
        ({"prompt": [0] * 65}, r"prompt of 65 tokens, expected 1 to 64"),
        ({"prompt": [512]}, r"prompt with tokens 512 to 512, expected 0 to 511"),
        ({"unconditional": [-1, 3]}, r"prompt with tokens -1 to 3, expected 0 to 511"),
        ({"noise": normal(8, 8)}, r"noise \(8, 8\), expected \(K, 8, 8\), K at least 1"),
        ({"noise": normal(0, 8, 8)}, r"noise \(0, 8, 8\), expected \(K, 8, 8\), K at least 1"),
        ({"decided": normal(9, 8)}, r"decided \(9, 8\), expected \(1 to 8, 8\)"),
        ({"decided": normal(2, 7)}, r"decided \(2, 7\), expected \(1 to 8, 8\)"),
        (
            {"decided": normal(2, 8), "delay": 3},
            r"delay 3, expected 0 to the 2 decided actions",
        ),
        (
            {"decided": normal(8, 8)},
            r"8 actions are decided, but the model was trained with 7 at most",
        ),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_refused(arguments, message):
    given = {"features": normal(4, 32), "prompt": prompt(3), "noise": noise()} | arguments
    with pytest.raises(ValueError, match=message):
        engine().act(given.pop("features"), given.pop("prompt"), **given)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"pictures \(1, 3, 16, 32\), expected \(V, 3, 32, 32\)"):
        engine().encode(pictures(1)[:, :, :16])
    with pytest.raises(ValueError, match=r"pictures \(0, 3, 32, 32\)"):
        engine().encode(pictures(1)[:0])


def test_subtasks_that_cannot_be_scored_are_refused():
    runs = engine()
    features = runs.encode(pictures(1))
    with pytest.raises(ValueError, match="no texts to score"):
        runs.score(features, prompt(3), [])
    with pytest.raises(ValueError, match=r"text of 17 tokens, expected 1 to 16"):
        runs.score(features, prompt(3), [[5] * config().max_subtask_tokens])


def test_an_end_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"end_token 512, expected 0 to 511"):
        engine(end_token=512)
