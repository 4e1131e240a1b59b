# SPDX-License-Identifier: Apache-2.0
"""What a pi0.5 plans for a batch of observations, on the plain model.

The engine of the robot plans for one observation at a time; this gives the same texts and
scores for many at once. No keys and values are kept: nearly always the recorded subtask is what
the planner would write, and then one pass shows it.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from vla_nodes.models.padding import pad
from vla_nodes.models.pi05 import Pi05, Tokens, Views

Ids = Sequence[int]


@dataclass(frozen=True, eq=False)
class Seen:
    """Observations of B frames, as the planner is shown them.

    Attributes:
        views: Their pictures.
        pictures: (B, V·P, W) their tokens.
        prompt: Of the planner, padded on the right.
    """

    views: Views
    pictures: Tensor
    prompt: Tokens

    def at(self, rows: Sequence[int]) -> "Seen":
        """Some of them."""
        chosen = list(rows)
        return Seen(
            Views(self.views.pixels[chosen], self.views.mask[chosen]),
            self.pictures[chosen],
            Tokens(self.prompt.ids[chosen], self.prompt.mask[chosen]),
        )


def text_logits(model: Pi05, seen: Seen, texts: Sequence[Ids]) -> Tensor:
    """Logits of every token of a text, and of the one after it.

    Args:
        model: In evaluation mode.
        seen: B observations.
        texts: B rows of token ids.

    Returns:
        (B, L + 1, vocabulary) float32, L the length of the longest text; a row of n tokens has
        n + 1 logits that mean something.
    """
    prompt, device = seen.prompt, seen.pictures.device
    text = Tokens(*(part.to(device) for part in pad(texts, 0)))
    hidden, _, _ = model.prefix(seen.views, seen.pictures, prompt, text)
    begin = seen.pictures.shape[1]
    start = begin + prompt.ids.shape[1]
    before = begin + prompt.mask.sum(1, keepdim=True) - 1
    behind = torch.arange(start, hidden.shape[1], device=device).expand(len(texts), -1)
    places = torch.cat([before, behind], dim=1)[..., None].expand(-1, -1, hidden.shape[2])
    return model.logits(hidden.gather(1, places)).float()


@torch.no_grad()
def write_subtasks(
    model: Pi05, seen: Seen, expected: Sequence[Ids], ends: Set[int], limit: int
) -> tuple[list[list[int]], list[int]]:
    """Writes subtasks greedily, and says how far an expected one agrees.

    Args:
        model: In evaluation mode.
        seen: B observations.
        expected: B texts as token ids, each with an end token at its end.
        ends: Tokens any of which ends a text.
        limit: Most tokens that are written, end token included.

    Returns:
        B texts without their end token, and how many tokens of each expected text were the
        likeliest after the ones before them.
    """
    likeliest = text_logits(model, seen, [row[:-1] for row in expected]).argmax(-1).tolist()
    written, correct = [], []
    for guesses, row in zip(likeliest, expected, strict=True):
        hits = [g == t or {g, t} <= ends for g, t in zip(guesses, row, strict=False)]
        agreed = hits.index(False) if False in hits else len(row) - 1
        written.append([*row[:agreed], guesses[agreed]][:limit])
        correct.append(sum(hits))

    def goes_on(text: list[int]) -> bool:
        return text[-1] not in ends and len(text) < limit

    while rows := [row for row, text in enumerate(written) if goes_on(text)]:
        logits = text_logits(model, seen.at(rows), [written[row] for row in rows])
        for place, guesses in zip(rows, logits.argmax(-1).tolist(), strict=True):
            written[place].append(guesses[len(written[place])])
    return [text[:-1] if text[-1] in ends else text for text in written], correct


@torch.no_grad()
def choose_subtasks(model: Pi05, seen: Seen, known: Sequence[Ids]) -> list[int]:
    """Which of the known subtasks is the likeliest.

    Args:
        model: In evaluation mode.
        seen: B observations.
        known: Texts as token ids, each with the end token at its end.

    Returns:
        B places in ``known``.
    """
    scores = []
    for text in known:
        logits = text_logits(model, seen, [text[:-1]] * len(seen.pictures))
        target = torch.tensor(text, device=logits.device).expand(len(logits), -1)
        scores.append(logits.log_softmax(-1).gather(2, target[..., None]).sum((1, 2)))
    return torch.stack(scores).argmax(0).tolist()
