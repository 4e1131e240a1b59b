# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from evaluation_samples import make_model

from vla_nodes.models.padding import pad
from vla_nodes.models.pi05 import Tokens, Views
from vla_training.evaluation.planning import Seen, choose_subtasks, write_subtasks

EOS = 2
PROMPTS = ([5, 9, 7], [30, 4, 17, 8, 21], [11], [6, 6, 12, 40])


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def views(model):
    side = model.config.image_size
    pixels = torch.rand(4, 2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[2, 1] = False
    return Views(pixels, mask)


@pytest.fixture(scope="module")
def seen(model, views):
    with torch.no_grad():
        return Seen(views, model.embed_pictures(views), Tokens(*pad(PROMPTS, 0)))


def next_logits(model, views, row, text):
    """Of one observation alone, nothing padded."""
    one = Views(views.pixels[row : row + 1], views.mask[row : row + 1])
    prompt, text = (
        Tokens(torch.tensor([ids], dtype=torch.long), torch.ones(1, len(ids), dtype=torch.bool))
        for ids in (PROMPTS[row], text)
    )
    return model.next_token(one, prompt, text)[0]


def greedy(model, views, row, limit, eos=EOS):
    text = []
    while len(text) < limit:
        text.append(int(next_logits(model, views, row, text).argmax()))
        if text[-1] == eos:
            return text[:-1]
    return text


def test_texts_are_those_of_one_token_after_the_other(model, views, seen):
    expected = [greedy(model, views, row, 6) for row in range(4)]
    # As recorded: what it writes itself, that cut short, that with a slip, and another text.
    recorded = [
        [*expected[0], EOS],
        [*expected[1][:2], EOS],
        [*expected[2][:3], 77, *expected[2][4:], EOS],
        [44, 45, EOS],
    ]
    assert write_subtasks(model, seen, recorded, {EOS}, 6)[0] == expected


def test_an_end_token_ends_a_text_wherever_it_comes(model, views, seen):
    tokens = greedy(model, views, 1, 6)
    for place, end in enumerate(tokens):
        recorded = [[end], [44, end], [*tokens[:2], end], [end]]
        written, _ = write_subtasks(model, seen, recorded, {end}, 6)
        assert written == [greedy(model, views, row, 6, end) for row in range(4)]
        assert len(written[1]) <= place


def test_either_end_token_ends_a_text(model, views, seen):
    tokens = greedy(model, views, 1, 6)
    ends = {EOS, tokens[2]}
    recorded = [[44, EOS], [*tokens[:2], EOS], [44, EOS], [44, EOS]]
    written, correct = write_subtasks(model, seen, recorded, ends, 6)
    assert (written[1], correct[1]) == (tokens[:2], 3)


def test_hits_are_counted_token_by_token(model, views, seen):
    texts = [[*greedy(model, views, row, 4), EOS] for row in range(4)]
    texts[1][1] = 99
    texts[3] = [44, EOS]
    _, correct = write_subtasks(model, seen, texts, {EOS}, 6)
    for row, text in enumerate(texts):
        hits = [
            int(next_logits(model, views, row, text[:place]).argmax()) == token
            for place, token in enumerate(text)
        ]
        assert correct[row] == sum(hits)


def test_the_likeliest_known_subtask_is_chosen(model, views, seen):
    likely = greedy(model, views, 0, 2)
    known = [[44, 45, 46, EOS], [*likely, EOS], [50, EOS], [60, 61, EOS]]
    chosen = choose_subtasks(model, seen, known)
    scores = torch.tensor(
        [
            [
                sum(
                    float(next_logits(model, views, row, text[:place]).log_softmax(-1)[token])
                    for place, token in enumerate(text)
                )
                for text in known
            ]
            for row in range(4)
        ]
    )
    assert chosen == scores.argmax(1).tolist()
    assert len(set(chosen)) > 1
