# SPDX-License-Identifier: Apache-2.0
"""Sizes of pi0.5 that fit together, and ones that do not."""

from dataclasses import replace

import pytest
import torch

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import SIZES, full, medium, small, tiny


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_paper(config) -> Pi05:
    with torch.device("meta"):
        return Pi05(config)


def test_full_size_is_paligemma_3b():
    # google/paligemma-3b-pt-224 has so many, and 64 more rows of token embeddings.
    assert parameters(on_paper(full()).vlm) == 2_923_466_480 - 64 * 2048


def test_full_size_has_256_tokens_a_picture():
    assert full().image_tokens == 256


@pytest.mark.parametrize(("size", "millions"), [(medium, 170), (small, 3.7)])
def test_sizes_are_what_they_are_said_to_be(size, millions):
    assert parameters(on_paper(size())) / 1e6 == pytest.approx(millions, rel=0.01)


def test_every_named_size_can_be_built():
    for size in SIZES.values():
        assert on_paper(size()).config == size()


@pytest.mark.parametrize("name", ["depth", "kv_heads", "head_dim"])
def test_expert_must_fit_the_language_model(name):
    config = tiny()
    other = replace(config.expert, **{name: 2 * getattr(config.expert, name)})
    with pytest.raises(ValueError, match=f"^{name}: language .*, expert .*; expected equal"):
        replace(config, expert=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": replace(tiny().language, heads=3, kv_heads=2)}, "kv_heads"),
        ({"vision": replace(tiny().vision, heads=3)}, "vision: width 32"),
        ({"image_size": 15}, "image_size 15"),
        ({"max_delay": 8}, "max_delay 8, expected 0 to 7"),
        ({"max_delay": -1}, "max_delay -1"),
        ({"expert": replace(tiny().expert, width=33)}, "even"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    if "language" in changes:
        changes["expert"] = replace(tiny().expert, kv_heads=2)
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **changes)
