# SPDX-License-Identifier: Apache-2.0
"""Prompts of value functions."""

import pytest
import torch
from value_samples import TASKS, make_config, make_value_tokenizer

from vla_nodes.models.value_prompt import MAX_CHARACTERS, SUFFIX, value_tokens

CROSSING, STITCHED = make_config("cross-attention"), make_config("stitched")
LONG = "put " + " and ".join(["the red cube on the blue one"] * 20)


@pytest.fixture(scope="module")
def tokenizer():
    return make_value_tokenizer()


def rows(tokens):
    return [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


def test_a_prompt_is_begun_and_not_ended(tokenizer):
    found = rows(value_tokens(tokenizer, TASKS, CROSSING, cameras=2))
    assert found == [[tokenizer.bos_id, *tokenizer.encode(f"{task}\nValue:")] for task in TASKS]


def test_pictures_of_all_views_stand_between_begin_and_text(tokenizer):
    config = make_config("stitched", history=3)
    found = rows(value_tokens(tokenizer, TASKS, config, cameras=2))
    pictures = [config.vocabulary] * (2 * 3 * 2 * 2)
    plain = rows(value_tokens(tokenizer, TASKS, CROSSING, cameras=2))
    assert found == [[row[0], *pictures, *row[1:]] for row in plain]


def test_rows_are_padded_on_the_right(tokenizer):
    tokens = value_tokens(tokenizer, TASKS, CROSSING, cameras=1)
    lengths = [len(row) for row in rows(tokens)]
    assert tokens.ids.shape == (2, max(lengths))
    assert tokens.mask.tolist() == (torch.arange(max(lengths)) < torch.tensor([lengths]).T).tolist()
    assert (tokens.ids[~tokens.mask] == tokenizer.pad_id).all()


@pytest.mark.parametrize("config", [CROSSING, STITCHED])
def test_graphs_of_static_shapes_get_the_same_length_whatever_the_text(tokenizer, config):
    fixed = [
        value_tokens(tokenizer, [task], config, cameras=3, fixed=True) for task in (*TASKS, LONG)
    ]
    pictures = 3 * 4 if config is STITCHED else 0
    assert {tokens.ids.shape for tokens in fixed} == {(1, 64 + pictures)}
    free = value_tokens(tokenizer, [TASKS[0]], config, cameras=3)
    assert rows(fixed[0]) == rows(free)


@pytest.mark.parametrize("config", [CROSSING, STITCHED])
def test_of_a_long_task_the_end_is_cut_and_never_the_suffix(tokenizer, config):
    (found,) = rows(value_tokens(tokenizer, [LONG], config, cameras=1))
    text = [token for token in found if token != config.image_id]
    suffix = tokenizer.encode(SUFFIX)
    assert len(text) == 64
    assert text == [tokenizer.bos_id, *tokenizer.encode(LONG)[: 63 - len(suffix)], *suffix]


def test_a_task_that_just_fits_is_whole(tokenizer):
    length = len(tokenizer.encode(TASKS[0] + SUFFIX)) + 1
    whole = value_tokens(tokenizer, TASKS[:1], make_config("stitched", max_tokens=length), 1)
    cut = value_tokens(tokenizer, TASKS[:1], make_config("stitched", max_tokens=length - 1), 1)
    assert tokenizer.decode(rows(whole)[0]) == TASKS[0] + SUFFIX
    assert tokenizer.decode(rows(cut)[0]).endswith(SUFFIX)
    assert len(rows(cut)[0]) == len(rows(whole)[0]) - 1


def test_spaces_and_lines_of_a_task_are_single_spaces(tokenizer):
    spaced = value_tokens(tokenizer, [" place  it\non\tthe tray \n"], CROSSING, cameras=1)
    assert rows(spaced) == rows(value_tokens(tokenizer, [TASKS[1]], CROSSING, cameras=1))


def test_no_text_makes_pictures_or_special_tokens(tokenizer):
    (found,) = rows(value_tokens(tokenizer, ["<image><bos><eos><pad>"], STITCHED, cameras=1))
    assert found.count(STITCHED.image_id) == 4
    assert found.count(tokenizer.bos_id) == 1
    assert not {tokenizer.eos_id, tokenizer.pad_id} & set(found)


@pytest.mark.parametrize("task", ["", " ", "\n\t"])
def test_an_empty_task_is_refused(tokenizer, task):
    with pytest.raises(ValueError, match="the task is empty, expected a text"):
        value_tokens(tokenizer, [TASKS[0], task], CROSSING, cameras=1)


def test_an_absurdly_long_task_is_refused(tokenizer):
    value_tokens(tokenizer, ["a" * MAX_CHARACTERS], CROSSING, cameras=1)
    with pytest.raises(ValueError, match=r"the task 'a+'\.\.\. has 2001 .* at most 2000"):
        value_tokens(tokenizer, ["a" * (MAX_CHARACTERS + 1)], CROSSING, cameras=1)


def test_a_model_without_room_for_a_task_is_refused(tokenizer):
    besides = 1 + len(tokenizer.encode(SUFFIX))
    with pytest.raises(ValueError, match=rf"max_tokens is {besides}, expected more than the"):
        value_tokens(tokenizer, ["a"], make_config("stitched", max_tokens=besides), 1)
    roomier = make_config("cross-attention", max_tokens=besides + 1)
    assert value_tokens(tokenizer, ["a"], roomier, 1).ids.shape == (1, besides + 1)
