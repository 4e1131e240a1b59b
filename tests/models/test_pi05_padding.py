# SPDX-License-Identifier: Apache-2.0
"""Padding, absent cameras and neighbours in a batch make no difference."""

from dataclasses import replace

import pytest
import torch
from pi05_runs import (
    CONFIG,
    NOISE,
    TIMES,
    assert_same,
    gradients,
    run,
    single_items,
)
from pi05_samples import (
    make_model,
    random_batch,
    random_views,
)

from vla_nodes.models.pi05_batch import Pi05Batch, Tokens, Views


@pytest.fixture
def model():
    return make_model()


def assert_same_everywhere(model, found: Pi05Batch, expected: Pi05Batch):
    """Losses, hidden states, gradients, chunks and logits of two forms of one batch."""
    ours, theirs = (run(model, batch, insulate=False) for batch in (found, expected))
    assert_same(ours.total_loss, theirs.total_loss)
    assert_same(ours.action_loss, theirs.action_loss)
    assert_same(ours.suffix_embeds, theirs.suffix_embeds)
    assert_same(ours.text_loss[found.target.mask], theirs.text_loss[expected.target.mask])
    assert not ours.text_loss[~found.target.mask].any()
    assert_same(ours.prefix_embeds[there(found)], theirs.prefix_embeds[there(expected)])
    ours, theirs = (gradients(model, output.total_loss) for output in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_same(ours[name], gradient, rtol=1e-4, msg=name)
    ours, theirs = (
        (
            model.sample_actions(batch.views, batch.actor, NOISE, steps=2),
            model.next_token(batch.views, batch.planner),
            model.next_token(batch.views, batch.planner, batch.target),
        )
        for batch in (found, expected)
    )
    assert_same(ours, theirs)


def there(batch: Pi05Batch) -> torch.Tensor:
    pictures = batch.views.mask.repeat_interleave(CONFIG.image_tokens, dim=1)
    return torch.cat([pictures, batch.planner.mask], dim=1)


@pytest.mark.parametrize(
    "padding",
    [{"side": "left"}, {"extra": 5}, {"side": "left", "extra": 3}, {"fill": 7, "extra": 2}],
    ids=str,
)
def test_padding_on_either_side_and_longer_padding_change_nothing(model, padding):
    assert_same_everywhere(model, random_batch(CONFIG, **padding), random_batch(CONFIG))


def test_what_an_absent_camera_shows_changes_nothing(model):
    batch = random_batch(CONFIG)
    pixels = batch.views.pixels.clone()
    pixels[~batch.views.mask] = 5.0
    other = replace(batch, views=replace(batch.views, pixels=pixels))
    assert_same_everywhere(model, other, batch)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_camera_that_is_absent_everywhere_can_be_left_out(model, place):
    batch = random_batch(CONFIG)
    absent = random_views(CONFIG, cameras=1, absent=[(0, 0), (1, 0), (2, 0)], seed=4)
    views = Views(
        *(
            torch.cat([known[:, :place], new, known[:, place:]], dim=1)
            for known, new in zip(
                (batch.views.pixels, batch.views.mask), (absent.pixels, absent.mask), strict=True
            )
        )
    )
    ours, theirs = run(model, replace(batch, views=views)), run(model, batch)
    assert_same(ours.total_loss, theirs.total_loss)
    assert_same(
        model.sample_actions(views, batch.actor, NOISE),
        model.sample_actions(batch.views, batch.actor, NOISE),
    )


def test_items_of_a_batch_do_not_see_each_other(model):
    batch = random_batch(CONFIG)
    whole = run(model, batch)
    for row, item in enumerate(single_items(batch)):
        output = run(model, item, noise=NOISE[row : row + 1], times=TIMES[row : row + 1])
        assert_same(output.action_loss[0], whole.action_loss[row])
        assert_same(output.text_loss[0], whole.text_loss[row][batch.target.mask[row]])


def test_strided_tensors_change_nothing(model):
    batch = random_batch(CONFIG)
    strided = replace(
        batch,
        views=Views(stride(batch.views.pixels), stride(batch.views.mask)),
        **{
            name: Tokens(stride(texts.ids), stride(texts.mask))
            for name in ("planner", "target", "actor")
            for texts in (getattr(batch, name),)
        },
        action=replace(
            batch.action,
            actions=stride(batch.action.actions),
            is_pad=stride(batch.action.is_pad),
        ),
    )
    assert not strided.views.pixels.is_contiguous()
    assert_same_everywhere(model, strided, batch)


def stride(x):
    """The same numbers, laid out the other way round."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)
