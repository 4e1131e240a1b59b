# SPDX-License-Identifier: Apache-2.0
"""``vla-fit-tokenizer``: a small text tokenizer for policies that are trained from nothing."""

import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import tokenizers
import tyro
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from vla_nodes.models.prompts import (
    ACTION_MARK,
    ADVANTAGE_MARKS,
    STATE_BINS,
    SUBTASK_MARK,
    actor_prompt,
    planner_prompt,
)
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.data.errors import DataError
from vla_training.data.files import publish
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.dataset_schema import dataset_schema
from vla_training.data.loading.frame_table import read_frame_table

_SPACE = "Ġ"  # as byte-level BPE writes it
_SPECIAL = ["<pad>", "<eos>", "<bos>"]
# A prompt ends in one of these. Being one token whatever comes next, it is the same whether a
# prompt is tokenised alone or with what follows it.
_MARKS = [SUBTASK_MARK, ACTION_MARK, *ADVANTAGE_MARKS.values()]
_LEAST = 256 + len(_SPECIAL) + len(_MARKS)  # so that every byte has a token


@dataclass(frozen=True)
class _Arguments:
    """Fits a text tokenizer to the tasks and subtasks of LeRobot datasets.

    Attributes:
        datasets: Their folders.
        out: Folder of the tokenizer; must not exist.
        vocabulary: Most tokens. Action tokens need room above it in the model's vocabulary.
    """

    datasets: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path
    vocabulary: int = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-fit-tokenizer``; returns the exit status."""
    arguments = tyro.cli(_Arguments, prog="vla-fit-tokenizer", args=argv)
    try:
        print(_run(arguments))
    except (DataError, OSError) as error:
        print(f"vla-fit-tokenizer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-fit-tokenizer: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(arguments: _Arguments) -> str:
    out = arguments.out
    if out.exists():
        raise DataError(f"{out} exists already; give another folder")
    if not arguments.datasets:
        raise DataError("no dataset is given")
    tasks: set[str] = set()
    subtasks: set[str] = set()
    for dataset in arguments.datasets:
        ours = read_texts(dataset)
        tasks |= ours[0]
        subtasks |= ours[1]
    tokenizer = fit_tokenizer(tasks, subtasks, arguments.vocabulary)
    partial = out.with_name(f".{out.name}.partial")
    try:
        tokenizer.write(partial)
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"{out}: {_summary(tokenizer, tasks, subtasks)}"


def read_texts(dataset: Path) -> tuple[set[str], set[str]]:
    """The tasks and the subtasks of a LeRobot dataset; empty ones are left out.

    Raises:
        DataError: It is none, or damaged.
    """
    root = dataset.resolve()
    info = read_info(root)
    try:
        fps = dataset_schema(root, info, cameras=()).fps
        frames = read_frame_table(root, info["features"], fps, range(info["total_episodes"]))
    except (pa.ArrowException, LookupError) as error:
        raise DataError(f"{dataset} is damaged: {error!r:.200}") from error
    return set(frames.task.texts) - {""}, set(frames.subtask.texts) - {""}


def fit_tokenizer(tasks: Collection[str], subtasks: Collection[str], vocabulary: int) -> Tokenizer:
    """Fits a byte-level BPE to the prompts and targets that these texts make.

    Every text can be tokenised, and comes back as it was. As far as the vocabulary allows, each
    number of a state is one token, then each word of the texts, frequent ones first. The same
    texts give the same tokenizer.

    Args:
        tasks: In plain words.
        subtasks: Likewise.
        vocabulary: Most tokens.

    Raises:
        DataError: The vocabulary is too small for a token per byte.
    """
    if vocabulary < _LEAST:
        raise DataError(f"vocabulary is {vocabulary}, expected at least {_LEAST}")
    numbers = [str(n) for n in range(STATE_BINS)][: vocabulary - _LEAST]
    words = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(_MARKS) - len(numbers),
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(_corpus(tasks, subtasks), trainer)
    tokenizer = _byte_level(_with_numbers(words, numbers))
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.add_tokens([tokenizers.AddedToken(mark, normalized=False) for mark in _MARKS])
    # As PaliGemma's: who encodes with special tokens gets the one that begins a prompt.
    begin = [("<bos>", tokenizer.token_to_id("<bos>"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=begin
    )
    return Tokenizer(tokenizer)


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _corpus(tasks: Collection[str], subtasks: Collection[str]) -> Iterator[str]:
    """Each text as a policy meets it, in an order that does not depend on that of sets."""
    for task in sorted(tasks):
        yield planner_prompt(task, [0]).removesuffix(SUBTASK_MARK)
    for subtask in sorted(subtasks):
        yield actor_prompt(subtask, [0]).removesuffix(ACTION_MARK)
        yield subtask


def _with_numbers(words: tokenizers.Tokenizer, numbers: Sequence[str]) -> models.BPE:
    """Merges of words, and before them those that make numbers, digit by digit."""
    learned = json.loads(words.to_str())["model"]
    counting = [(_SPACE + number[:-1], number[-1]) for number in numbers]
    merges = list(dict.fromkeys([*counting, *map(tuple, learned["merges"])]))
    tokens = dict.fromkeys([*learned["vocab"], *(left + right for left, right in merges)])
    return models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def _summary(tokenizer: Tokenizer, tasks: Collection[str], subtasks: Collection[str]) -> str:
    """What was fitted, for people."""
    words = {word for text in (*tasks, *subtasks) for word in re.findall(r"\w+", text)}
    numbers = map(str, range(STATE_BINS))
    counts = []
    for what, items in (("numbers of a state", numbers), ("words", words)):
        whole = [len(tokenizer.encode(f" {item}")) == 1 for item in items]
        counts.append(f"{sum(whole)} of {len(whole)} {what}")
    return (
        f"{tokenizer.size} tokens of {len(tasks)} tasks and {len(subtasks)} subtasks; "
        f"one token each for {' and '.join(counts)}"
    )
