# SPDX-License-Identifier: Apache-2.0
"""Layout of a planner's target, and where FAST tokens lie in a vocabulary."""

import string
from types import SimpleNamespace

import pytest
import tokenizers

from vla_nodes.models.tokenizer import Tokenizer
from vla_training.tokens.fast import FastError
from vla_training.tokens.planner_target import (
    check_vocabulary,
    fast_ids,
    fast_tokens,
    parse_target,
    planner_target,
)

TEXTS = ["<pad>", "<eos>", "<bos>", *string.printable]
VOCABULARY = len(TEXTS) + 50 + 128


@pytest.fixture(scope="module")
def letters():
    """Every character is a token."""
    model = tokenizers.models.BPE({text: i for i, text in enumerate(TEXTS)}, [])
    return Tokenizer(tokenizers.Tokenizer(model))


def numbers(text):
    return [TEXTS.index(character) for character in text]


def test_a_target_is_subtask_marker_actions_bar_and_end(letters):
    actions = fast_ids([0, 49, 7, 7], VOCABULARY)
    target = planner_target(numbers("lift it"), actions, letters)
    assert target == [*numbers("lift it\nAction: "), *actions, *numbers("|"), 1]


@pytest.mark.parametrize("subtask", ["", "grasp the cup", "Action: ", "a | b", "\n"])
@pytest.mark.parametrize("tokens", [[], [3], [0, 49, 0]])
def test_a_target_is_read_back_as_it_was_made(letters, subtask, tokens):
    actions = fast_ids(tokens, VOCABULARY)
    target = planner_target(numbers(subtask), actions, letters)
    assert parse_target(target, letters) == (numbers(subtask), actions)
    assert parse_target(target[:-1], letters) == (numbers(subtask), actions)
    assert fast_tokens(actions, VOCABULARY) == tokens


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("lift it", "no '\\\\nAction: '"),
        ("lift it\nAction: ", r"no '\|'"),
        ("", "hold no"),
        ("lift\nAction: |x", "1 tokens follow"),
    ],
)
def test_what_is_no_target_is_refused(letters, text, missing):
    with pytest.raises(FastError, match=missing):
        parse_target(numbers(text), letters)


@pytest.mark.parametrize(
    ("subtask", "actions"),
    [("a\nAction: b", [200]), ("a", [200, TEXTS.index("|")]), ("a\nAction: ", [200])],
)
def test_what_could_not_be_read_back_is_refused(letters, subtask, actions):
    with pytest.raises(FastError, match="holds its ids"):
        planner_target(numbers(subtask), actions, letters)


def test_1024_tokens_take_the_places_of_paligemma():
    ids = fast_ids(range(1024), 257152)
    assert ids == [257023 - token for token in range(1024)]
    assert (min(ids), max(ids)) == (256000, 257023)


def test_ids_are_those_of_lerobot():
    import torch
    from lerobot.processor.tokenizer_processor import ActionTokenizerProcessorStep

    step = SimpleNamespace(
        _paligemma_tokenizer=SimpleNamespace(vocab_size=257152), fast_skip_tokens=128
    )
    tokens = torch.arange(2048)
    theirs = ActionTokenizerProcessorStep._act_tokens_to_paligemma_tokens(step, tokens)
    assert fast_ids(tokens.tolist(), 257152) == theirs.tolist()


@pytest.mark.parametrize("fast_size", [1, 50])
def test_a_vocabulary_that_just_suffices_has_no_id_twice(fast_size):
    vocabulary = 300 + fast_size + 128
    check_vocabulary(300, fast_size, vocabulary)
    assert min(fast_ids(range(fast_size), vocabulary)) == 300
    with pytest.raises(FastError, match=f"expected {vocabulary} at least, or leave"):
        check_vocabulary(300, fast_size, vocabulary - 1)


def test_tokens_of_text_are_overwritten_only_by_leave():
    with pytest.raises(FastError, match=r"1024 FAST tokens .* vocabulary of 257152"):
        check_vocabulary(257153, 1024, 257152)
    check_vocabulary(257153, 1024, 257152, overwrite=True)


def test_a_vocabulary_smaller_than_the_fast_tokens_is_refused_in_any_case():
    with pytest.raises(FastError, match=r"expected 1252 at least$"):
        check_vocabulary(100, 1024, 1151, overwrite=True)
