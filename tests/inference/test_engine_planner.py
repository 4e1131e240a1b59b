# SPDX-License-Identifier: Apache-2.0
"""The engine's subtasks and scores are those of running everything again for each token."""

import pytest
import torch
from engine_samples import config, engine, pictures, plain, prompt, tokens, views

LIMIT = config().max_subtask_tokens


def logits_after(seen, words, text):
    return plain().next_token(views(seen), tokens(words), tokens(text) if text else None)[0]


def greedy(seen, words, limit):
    text = []
    while len(text) < limit:
        text.append(logits_after(seen, words, text).argmax().item())
    return text


@pytest.mark.parametrize("bucket", [1, 4, 16])
@pytest.mark.parametrize(("count", "length"), [(1, 3), (2, 16), (3, 9)])
def test_free_text_is_the_most_probable_token_each_time(bucket, count, length):
    seen, words = pictures(count), prompt(length)
    expected = greedy(seen, words, LIMIT)
    assert len(set(expected)) > 1
    never = next(token for token in range(config().vocabulary) if token not in expected)
    runs = engine(bucket=bucket, end_token=never)
    assert runs.plan(runs.encode(seen), words) == expected


@pytest.mark.parametrize("place", [0, 1, 5, LIMIT - 1])
@pytest.mark.parametrize("look_every", [1, 4])
def test_text_ends_before_the_end_token(place, look_every):
    seen, words = pictures(2), prompt(9)
    expected = greedy(seen, words, LIMIT)
    runs = engine(end_token=expected[place])
    runs._planner.look_every = look_every
    first = expected.index(expected[place])
    assert runs.plan(runs.encode(seen), words) == expected[:first]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_text_is_no_longer_than_asked(limit):
    seen, words = pictures(1), prompt(9)
    expected = greedy(seen, words, limit)
    never = next(token for token in range(config().vocabulary) if token not in expected)
    runs = engine(end_token=never)
    assert runs.plan(runs.encode(seen), words, limit) == expected


@pytest.mark.parametrize("limit", [0, LIMIT + 1])
def test_a_limit_the_model_was_not_made_for_is_refused(limit):
    runs = engine()
    with pytest.raises(ValueError, match=rf"limit {limit}, expected 1 to {LIMIT}"):
        runs.plan(runs.encode(pictures(1)), prompt(9), limit)


def test_plans_leave_no_traces_in_later_ones():
    runs = engine(bucket=16)
    first, second = (runs.encode(pictures(2, seed)) for seed in (0, 1))
    before = runs.plan(first, prompt(16))
    runs.plan(second, prompt(3, seed=1))
    assert runs.plan(first, prompt(16)) == before


@pytest.mark.parametrize("bucket", [1, 4, 16])
def test_scores_are_summed_log_probabilities_end_included(bucket):
    seen, words, end = pictures(2), prompt(9), 7
    texts = [[5], [5, 6, 8], prompt(12, seed=3), [5, 6, 8, 2], []]
    runs = engine(bucket=bucket, end_token=end)
    scores = runs.score(runs.encode(seen), words, texts)
    for text, score in zip(texts, scores.tolist(), strict=True):
        expected, so_far = 0.0, []
        for token in [*text, end]:
            logs = logits_after(seen, words, so_far).double().log_softmax(-1)
            expected += logs[token].item()
            so_far.append(token)
        assert score == pytest.approx(expected, abs=1e-4)


def test_a_text_scores_the_same_in_any_company():
    seen, words = pictures(2), prompt(9)
    runs = engine()
    features = runs.encode(seen)
    alone = runs.score(features, words, [[5, 6]])
    among = runs.score(features, words, [[9] * 10, [5, 6], [1]])
    torch.testing.assert_close(among[1:2], alone)
