# SPDX-License-Identifier: Apache-2.0
r"""What a planner with FAST tokens is to write: a subtask, then the actions as tokens.

The target is subtask, ``"\nAction: "``, FAST tokens, ``"|"``, EOS.
"""

from collections.abc import Sequence

from vla_nodes.models.prompts import ACTION_MARK
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.tokens.fast import FastError

RESERVED = 128
"""Ids at the top of the vocabulary that no FAST token takes; PaliGemma's are of segments."""

_END = "|"


def check_vocabulary(
    text_size: int,
    fast_size: int,
    vocabulary: int,
    *,
    reserved: int = RESERVED,
    overwrite: bool = False,
) -> None:
    """Checks that a model's vocabulary has room for the FAST tokens.

    A vocabulary made for the purpose has ``text_size + fast_size + reserved`` ids or more. That
    of a published model is full, and FAST tokens take over the ids of the rarest tokens, as in
    the paper and in openpi. PaliGemma's 257152 ids end with 1024 of places in a picture and 128
    of segments: those 128 are the reserved ones, and 1024 FAST tokens take over just the places,
    which neither prompts nor subtasks mention. More FAST tokens would take over rare characters.

    Args:
        text_size: Ids of the text tokenizer.
        fast_size: FAST tokens.
        vocabulary: Ids of the model.
        reserved: Ids at the top that stay free.
        overwrite: Whether FAST tokens may take over ids of text.

    Raises:
        FastError: There is no room.
    """
    first = vocabulary - reserved - fast_size
    if first < 0 or (first < text_size and not overwrite):
        raise FastError(
            f"{fast_size} FAST tokens and {reserved} reserved ids do not fit behind {text_size} "
            f"text tokens in a vocabulary of {vocabulary}, expected "
            f"{text_size + fast_size + reserved} at least"
            + ("" if first < 0 else ", or leave to overwrite the rarest text tokens")
        )


def fast_ids(tokens: Sequence[int], vocabulary: int, reserved: int = RESERVED) -> list[int]:
    """Ids of FAST tokens in the model's vocabulary: downwards, from below the reserved ones."""
    return [vocabulary - 1 - reserved - token for token in tokens]


def fast_tokens(ids: Sequence[int], vocabulary: int, reserved: int = RESERVED) -> list[int]:
    """FAST tokens of ids in the model's vocabulary; the inverse of ``fast_ids``.

    Ids that are no FAST token's give numbers that ``FastTokenizer.decode`` refuses.
    """
    return fast_ids(ids, vocabulary, reserved)  # counting down from the top undoes itself


def planner_target(
    subtask: Sequence[int], actions: Sequence[int], tokenizer: Tokenizer
) -> list[int]:
    """What the planner is to write, EOS included.

    Args:
        subtask: Its tokens, without EOS.
        actions: Ids of the FAST tokens in the model's vocabulary.
        tokenizer: Of the text.

    Raises:
        FastError: It could not be told apart again: the subtask holds the separator, or FAST
            tokens have taken over the ids of what ends them.
    """
    action, end = tokenizer.encode(ACTION_MARK), tokenizer.encode(_END)
    for ids, separator, text in ((list(subtask), action, ACTION_MARK), (list(actions), end, _END)):
        if _split([*ids, *separator], separator, text) != (ids, []):
            raise FastError(f"what stands before {text!r} in a target holds its ids {separator}")
    return [*subtask, *action, *actions, *end, tokenizer.eos_id]


def parse_target(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Reads what a planner wrote.

    Args:
        ids: As ``planner_target`` makes them; EOS may be missing.
        tokenizer: Of the text.

    Returns:
        Tokens of the subtask, and ids of the FAST tokens in the model's vocabulary.

    Raises:
        FastError: A separator is missing, or something follows the actions.
    """
    action, end = tokenizer.encode(ACTION_MARK), tokenizer.encode(_END)
    subtask, rest = _split(list(ids), action, ACTION_MARK)
    actions, rest = _split(rest, end, _END)
    if rest not in ([], [tokenizer.eos_id]):
        raise FastError(f"{len(rest)} tokens follow the actions, expected EOS alone")
    return subtask, actions


def _split(ids: list[int], separator: list[int], text: str) -> tuple[list[int], list[int]]:
    """What lies before the first separator, and behind it."""
    for start in range(len(ids) - len(separator) + 1):
        if ids[start : start + len(separator)] == separator:
            return ids[:start], ids[start + len(separator) :]
    raise FastError(f"a planner's {len(ids)} tokens hold no {text!r}")
