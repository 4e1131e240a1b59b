# SPDX-License-Identifier: Apache-2.0
"""Batches of questions about pictures, as a stitched value function learns from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from vla_nodes.models.padding import pad
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_config import ValueConfig
from vla_nodes.models.value_prompt import IMAGE
from vla_training.data.errors import DataError
from vla_training.data.vqa.questions import VqaItem

QUESTION, ANSWER = "Question: ", "\nAnswer: "
MAX_TOKENS = 512
"""Of question and answer together; those of the picture are not counted, which alone may be
more."""
ANSWER_TOKENS = 128
"""Of those, which questions leave to the answer."""


@dataclass(frozen=True, eq=False)
class VqaBatch:
    """B questions with their answers.

    Attributes:
        pixels: (B, 3, S, S) float32 from -1 to 1; black where there is no picture.
        mask: (B, V) bool, the views of one camera; a picture is the newest, and the only one.
        ids: (B, L) int64; ``config.image_id`` stands V·P times where the picture is.
        id_mask: (B, L) bool.
        target_mask: (B, L) bool, True at what is to be learnt: the answer and its end.
    """

    pixels: Tensor
    mask: Tensor
    ids: Tensor
    id_mask: Tensor
    target_mask: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device; what lies in pinned memory is sent without waiting."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Self:
        """The same batch in pinned memory, as a ``DataLoader`` asks for it."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


def vqa_batch(items: Sequence[VqaItem], tokenizer: Tokenizer, config: ValueConfig) -> VqaBatch:
    r"""Makes a batch.

    The text is "<image>\nQuestion: {question}\nAnswer: {answer}", begun by BOS and ended by EOS.
    A picture takes the place of the first ``<image>`` in the question, and without one stands in
    front; further ones are dropped, and so is the one in front where there is no picture.

    Of a text that has more than ``MAX_TOKENS`` the end of the question is cut off, as far as it
    leaves no ``ANSWER_TOKENS`` to the answer, and then that of the answer, of which EOS is
    then not learnt.

    Args:
        items: B of them.
        tokenizer: Of the model.
        config: Of the model.

    Raises:
        DataError: A text has what the tokenizer does not know.
    """
    pictures = config.history * config.image_tokens
    rows, targets = [], []
    for item in items:
        try:
            before, after, answer = _texts(item, tokenizer)
        except ValueError as error:
            raise DataError(str(error)) from error
        place = [config.image_id] * pictures if item.image is not None else []
        prompt = [tokenizer.bos_id, *before, *place, *after]
        rows.append([*prompt, *answer])
        targets.append([0] * len(prompt) + [1] * len(answer))
    ids, id_mask = pad(rows, tokenizer.pad_id)
    target_mask, _ = pad(targets, 0)
    # The model knows pictures by their age: one alone is as new as a robot's newest.
    mask = torch.zeros(len(items), config.history, dtype=torch.bool)
    mask[:, -1] = torch.tensor([item.image is not None for item in items])
    black = torch.full((1, 3, config.image_size, config.image_size), -1.0)
    pixels = [
        black if item.image is None else fit_pictures(item.image[None], config.image_size)
        for item in items
    ]
    return VqaBatch(torch.cat(pixels), mask, ids, id_mask, target_mask.bool())


def _texts(item: VqaItem, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Tokens before the picture, of the rest of the prompt, and of the answer."""
    start, mark, rest = item.question.partition(IMAGE)
    rest = rest.replace(IMAGE, "")
    if mark and item.image is not None:
        before, after = tokenizer.encode(QUESTION + start), tokenizer.encode(rest)
    else:
        before, after = [], tokenizer.encode("\n" + QUESTION + start + rest)
    suffix, answer = tokenizer.encode(ANSWER), tokenizer.encode(item.answer.replace(IMAGE, ""))
    room = MAX_TOKENS - 1 - len(suffix)
    answer = [*answer, tokenizer.eos_id]
    asked = room - min(len(answer), ANSWER_TOKENS)
    before, after = before[:asked], after[: max(0, asked - len(before))]
    answer = answer[: room - len(before) - len(after)]
    return before, [*after, *suffix], answer
