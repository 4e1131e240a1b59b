# SPDX-License-Identifier: Apache-2.0
"""The planner's loss against transformers' PaliGemma and token by token decoding."""

import numpy as np
import pytest
import torch
from pi05_runs import CONFIG, gradients, only_text, run, single_items
from pi05_samples import make_model, padded, random_batch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration


@pytest.fixture
def model():
    return make_model()


def test_text_loss_is_that_of_transformers_paligemma(model):
    batch = random_batch(CONFIG)
    batch.views.mask.fill_(True)
    theirs = transformers_paligemma(model)
    output = run(model, batch)
    losses = []
    for row, item in enumerate(single_items(batch)):
        pictures = torch.full((1, 2 * CONFIG.image_tokens), CONFIG.vocabulary)
        ids = torch.cat([pictures, item.planner.ids, item.target.ids], dim=1)
        suffix = torch.arange(ids.shape[1])[None] >= ids.shape[1] - item.target.ids.shape[1]
        logits = theirs(
            input_ids=ids,
            pixel_values=item.views.pixels[0],
            token_type_ids=suffix.long(),
            attention_mask=torch.ones_like(ids),
        ).logits[0]
        predicted = logits[:-1][suffix[0, 1:]].log_softmax(-1)
        expected = [
            -row[token].item() for row, token in zip(predicted, item.target.ids[0], strict=True)
        ]
        found = output.text_loss[row][batch.target.mask[row]]
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
        losses += expected
    text = run(model, only_text(batch)).total_loss
    assert text.item() == pytest.approx(np.mean(losses), rel=1e-5)


def transformers_paligemma(model) -> PaliGemmaForConditionalGeneration:
    language, vision = CONFIG.language, CONFIG.vision
    theirs = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config={
                "hidden_size": vision.width,
                "intermediate_size": vision.mlp,
                "num_hidden_layers": vision.depth,
                "num_attention_heads": vision.heads,
                "image_size": CONFIG.image_size,
                "patch_size": vision.patch,
                "projection_dim": language.width,
                "vision_use_head": False,
            },
            text_config={
                "vocab_size": CONFIG.vocabulary,
                "hidden_size": language.width,
                "intermediate_size": language.mlp,
                "num_hidden_layers": language.depth,
                "num_attention_heads": language.heads,
                "num_key_value_heads": language.kv_heads,
                "head_dim": language.head_dim,
            },
            image_token_index=CONFIG.vocabulary,
            projection_dim=language.width,
        )
    ).eval()
    missing, unexpected = theirs.load_state_dict(model.vlm.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_loss_is_that_of_decoding_token_by_token(model, side):
    batch = random_batch(CONFIG, side=side, extra=2)
    found = run(model, batch).text_loss
    for row, item in enumerate(single_items(batch)):
        target = item.target.ids
        expected = []
        for count in range(target.shape[1]):
            text = padded([target[0, :count].tolist()]) if count else None
            logits = model.next_token(item.views, item.planner, text)[0]
            expected.append(-logits.log_softmax(-1)[target[0, count]].item())
        np.testing.assert_allclose(found[row][batch.target.mask[row]].detach(), expected, 1e-4)


def test_text_loss_of_no_target_at_all_is_zero(model):
    batch = only_text(random_batch(CONFIG))
    batch.target.mask.fill_(False)
    output = run(model, batch)
    assert output.total_loss.item() == 0.0
    assert not gradients(model, output.total_loss)
