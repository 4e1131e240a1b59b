# SPDX-License-Identifier: Apache-2.0
"""The text that a value function reads."""

from collections.abc import Sequence

from vla_nodes.models.padding import pad
from vla_nodes.models.pi05_batch import Tokens
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_config import ValueConfig

SUFFIX = "\nValue:"
IMAGE = "<image>"
"""Where a picture stands in a text with pictures."""
MAX_CHARACTERS = 2000  # of a task; far more than fit


def value_tokens(
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    config: ValueConfig,
    cameras: int,
    *,
    fixed: bool = False,
) -> Tokens:
    """Tokens of value prompts.

    A prompt is the task and ``SUFFIX``, behind the pictures where the model is a stitched one.
    Of a task that is too long its end is cut off, never the suffix.

    Args:
        tokenizer: Of the model.
        tasks: B texts, tasks or subtasks.
        config: Of the model.
        cameras: There are.
        fixed: Pad to the longest prompt that there may be, for graphs of static shapes, instead
            of the longest that there is.

    Returns:
        (B, L).

    Raises:
        ValueError: A task is empty, absurdly long, or has what the tokenizer does not know; or
            the model's longest text has no room for a task.
    """
    pictures = config.views(cameras) * config.image_tokens if config.arch == "stitched" else 0
    suffix = tokenizer.encode(SUFFIX)
    room = config.max_tokens - 1 - len(suffix)
    if room < 1:
        raise ValueError(
            f"max_tokens is {config.max_tokens}, expected more than the {1 + len(suffix)} tokens "
            "that a prompt has besides its task"
        )
    rows = []
    for task in tasks:
        text = " ".join(task.split())
        if not text:
            raise ValueError("the task is empty, expected a text")
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"the task {text[:40]!r}... has {len(text)} characters, expected at most "
                f"{MAX_CHARACTERS}"
            )
        words = tokenizer.encode(text)[:room]
        rows.append([tokenizer.bos_id, *[config.image_id] * pictures, *words, *suffix])
    ids, mask = pad(rows, tokenizer.pad_id, config.max_tokens + pictures if fixed else None)
    return Tokens(ids, mask)
