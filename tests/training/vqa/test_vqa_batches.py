# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from vqa_samples import cauldron, coloured, write_llava

from vla_nodes.models.value_config import tiny
from vla_training.data.errors import DataError
from vla_training.data.vqa.batches import ANSWER_TOKENS, MAX_TOKENS, vqa_batch
from vla_training.data.vqa.questions import VqaItem
from vla_training.data.vqa.sources import read_questions
from vla_training.tokens.fit_tokenizer import fit_tokenizer

CONFIG = tiny("stitched")
TOKENIZER = fit_tokenizer({"what colour is it", "red green blue"}, set(), vocabulary=500)
PICTURE = torch.full((3, 24, 48), 255, dtype=torch.uint8)
P = CONFIG.image_tokens
HERE = CONFIG.image_id


def row(item, config=CONFIG):
    """Tokens of a single item and of those the ones to be learnt."""
    batch = vqa_batch([item], TOKENIZER, config)
    assert bool(batch.id_mask.all())
    return batch.ids[0].tolist(), batch.ids[0][batch.target_mask[0]].tolist()


def text(*parts):
    """Tokens of texts, and of pictures where one is None."""
    ids = [TOKENIZER.bos_id]
    for part in parts:
        ids += [HERE] * P if part is None else TOKENIZER.encode(part)
    return ids


def test_the_picture_stands_in_front_and_the_answer_ends():
    ids, learnt = row(VqaItem(PICTURE, "what colour is it", "white"))
    answer = [*TOKENIZER.encode("white"), TOKENIZER.eos_id]
    assert ids == text(None, "\nQuestion: what colour is it", "\nAnswer: ") + answer
    assert learnt == answer


def test_the_first_mark_is_the_place_of_the_picture_and_others_are_dropped():
    ids, _ = row(VqaItem(PICTURE, "of <image> or <image> say", "a <image> b"))
    answer = [*TOKENIZER.encode("a  b"), TOKENIZER.eos_id]
    assert ids == text("Question: of ", None, " or  say", "\nAnswer: ") + answer


def test_a_question_without_a_picture_has_no_place_for_one():
    batch = vqa_batch([VqaItem(None, "of <image> say", "yes")], TOKENIZER, CONFIG)
    assert HERE not in batch.ids
    assert not batch.mask.any()
    assert bool((batch.pixels == -1.0).all())
    ids, _ = row(VqaItem(None, "say", "yes"))
    assert ids[: -len(TOKENIZER.encode("yes")) - 1] == text("\nQuestion: say", "\nAnswer: ")


def test_text_of_special_tokens_is_but_text():
    ids, _ = row(VqaItem(PICTURE, "is <eos> <bos> it", "<pad>"))
    assert ids.count(TOKENIZER.eos_id) == ids.count(TOKENIZER.bos_id) == 1
    assert TOKENIZER.pad_id not in ids


def test_pictures_are_fitted_into_a_square():
    batch = vqa_batch([VqaItem(PICTURE, "q", "a")], TOKENIZER, CONFIG)
    assert tuple(batch.pixels.shape) == (1, 3, 32, 32)
    assert bool((batch.pixels[0, :, 8:24] == 1.0).all())
    assert bool((batch.pixels[0, :, :8] == -1.0).all())


def test_rows_are_padded_on_the_right_and_padding_is_not_learnt():
    items = [VqaItem(PICTURE, "q", "a"), VqaItem(PICTURE, "a longer question", "an answer")]
    batch = vqa_batch(items, TOKENIZER, CONFIG)
    assert len(batch) == 2
    alone = vqa_batch(items[:1], TOKENIZER, CONFIG)
    length = alone.ids.shape[1]
    assert torch.equal(batch.ids[:1, :length], alone.ids)
    assert torch.equal(batch.target_mask[:1, :length], alone.target_mask)
    assert not batch.id_mask[0, length:].any()
    assert not batch.target_mask[0, length:].any()
    assert bool((batch.ids[0, length:] == TOKENIZER.pad_id).all())


def test_a_long_answer_loses_its_end_and_does_not_learn_to_stop():
    word = TOKENIZER.encode("red")
    answer = " ".join(["red"] * 2 * MAX_TOKENS)
    ids, learnt = row(VqaItem(PICTURE, "what colour", answer))
    assert len(ids) - P == MAX_TOKENS
    assert TOKENIZER.eos_id not in ids
    assert learnt == TOKENIZER.encode(answer)[: len(learnt)]
    assert learnt[: len(word)] == word


def test_a_long_question_leaves_room_for_the_answer():
    question = " ".join(["red"] * 2 * MAX_TOKENS)
    ids, learnt = row(VqaItem(PICTURE, question, "blue"))
    assert len(ids) - P == MAX_TOKENS
    assert learnt == [*TOKENIZER.encode("blue"), TOKENIZER.eos_id]
    suffix = TOKENIZER.encode("\nAnswer: ")
    assert ids[: -len(learnt)][-len(suffix) :] == suffix
    _, learnt = row(VqaItem(PICTURE, question, question))
    assert len(learnt) == ANSWER_TOKENS
    marked = "red " * 2 * MAX_TOKENS + "<image>" + " red" * 9
    ids, _ = row(VqaItem(PICTURE, marked, "blue"))
    assert (len(ids) - P, ids.count(HERE)) == (MAX_TOKENS, P)


def test_a_text_is_cut_only_where_it_must_be():
    fixed = len(text("\nQuestion: ", "\nAnswer: ")) + len(TOKENIZER.encode("blue")) + 1
    question = "~" * (MAX_TOKENS - fixed)
    assert len(TOKENIZER.encode("~" * 3)) == 3
    ids, _ = row(VqaItem(PICTURE, question, "blue"))
    assert len(ids) - P == MAX_TOKENS
    longer, _ = row(VqaItem(PICTURE, question + "~", "blue"))
    assert longer == ids


def test_a_picture_is_the_newest_of_a_history():
    config = replace(CONFIG, history=3)
    items = [VqaItem(PICTURE, "q", "a"), VqaItem(None, "q", "a")]
    batch = vqa_batch(items, TOKENIZER, config)
    assert batch.mask.tolist() == [[False, False, True], [False] * 3]
    assert batch.ids[0].tolist().count(HERE) == 3 * P


def test_both_forms_of_the_same_questions_make_the_same_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    entries = [*coloured(4), (None, [("what is it", "nothing")])]
    (tmp_path / "parquet").mkdir()
    cauldron(entries).to_parquet(tmp_path / "parquet" / "train.parquet")
    one = read_questions(*write_llava(tmp_path, entries))
    other = read_questions(tmp_path / "parquet", None)
    batches = [
        vqa_batch([found[k] for k in range(len(found))], TOKENIZER, CONFIG)
        for found in (one, other)
    ]
    for name, tensor in vars(batches[0]).items():
        assert torch.equal(tensor, getattr(batches[1], name)), name


def test_what_the_tokenizer_does_not_know_is_named():
    class Ignorant:
        bos_id = eos_id = pad_id = 0

        def encode(self, text):
            raise ValueError(f"text {text!r} cannot be tokenised")

    with pytest.raises(DataError, match="cannot be tokenised"):
        vqa_batch([VqaItem(None, "q", "a")], Ignorant(), CONFIG)


def test_a_batch_on_a_device_is_the_same():
    batch = vqa_batch([VqaItem(PICTURE, "q", "a")], TOKENIZER, CONFIG).to("cpu")
    assert np.isfinite(batch.pixels.numpy()).all()
    assert len(batch.to("meta")) == 1
    assert batch.to("meta").ids.device.type == "meta"
