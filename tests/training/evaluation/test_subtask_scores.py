# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vla_training.evaluation.subtask_scores import Planned, confusion, score_subtasks

WORDS = ("reach", "grasp", "lift", "place")


def planned(*words_and_tokens):
    return Planned(0, 0, "tidy up", *words_and_tokens)


def test_scores_are_those_counted_by_hand():
    frames = [
        planned("reach", "reach", "reach", 2, 2),
        planned("reach", "grasp", "reach", 1, 2),
        planned("grasp the cup", "grasp the", "lift", 3, 4),
        planned("lift", "lift", "lift", 2, 2),
    ]
    scores = score_subtasks(frames)
    assert scores.frames == 4
    assert scores.written == 2 / 4
    assert scores.chosen == 3 / 4
    assert scores.token_accuracy == 8 / 10


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
def test_every_pair_is_counted_where_a_loop_counts_it(limit):
    rng = np.random.default_rng(limit)
    recorded = rng.choice(WORDS, 200, p=[0.4, 0.3, 0.2, 0.1])
    named = rng.choice([*WORDS, "something else"], 200)
    pairs = [(str(a), str(b)) for a, b in zip(recorded, named, strict=True)]
    table = confusion(pairs, limit)
    assert table.labels == WORDS[:limit]
    cells = [{word} for word in table.labels]
    cells.append({*WORDS, "something else"}.difference(*cells))
    for row, ours in enumerate(cells):
        for column, theirs in enumerate(cells):
            expected = sum(a in ours and b in theirs for a, b in pairs)
            assert table.counts[row, column] == expected
