# SPDX-License-Identifier: Apache-2.0
"""``vla-fit-fast``: FAST action tokens fitted to a dataset, and what they lose and cost."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tyro

from vla_nodes.models.scaling import Scaling
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.dataset_schema import dataset_schema
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.frame_scaling import frame_scaling
from vla_training.data.loading.frame_table import FrameTable, read_frame_table
from vla_training.tokens.fast import FastError, FastTokenizer

_FITTED = 4_000_000  # numbers; fitting takes 150 bytes of memory and 0.6 us for each
_MEASURED = 1_000_000  # likewise; measuring takes 0.4 us for each


@dataclass(frozen=True)
class _Arguments:
    """Fits FAST action tokens to a LeRobot dataset.

    Attributes:
        dataset: Its folder.
        out: The new folder of the tokenizer.
        chunk: Actions in a chunk, as many as the model's.
        vocabulary: Most tokens.
        scale: Larger is more exact, and takes more tokens.
        seed: Of the split into episodes to fit to and episodes to measure on: that of training.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    out: Path
    chunk: int = 50
    vocabulary: int = 1024
    scale: float = 10.0
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``vla-fit-fast``; returns the exit status."""
    arguments = tyro.cli(_Arguments, prog="vla-fit-fast", args=argv)
    try:
        print(fit_fast(**vars(arguments)))
    except (DataError, OSError) as error:
        print(f"vla-fit-fast: {error}", file=sys.stderr)
        return 1
    except (pa.ArrowException, LookupError) as error:
        print(f"vla-fit-fast: {arguments.dataset} is damaged: {error!r:.200}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vla-fit-fast: interrupted", file=sys.stderr)
        return 130
    return 0


def fit_fast(dataset: Path, out: Path, chunk: int, vocabulary: int, scale: float, seed: int) -> str:
    """Fits to the training episodes of a dataset, and measures on those of validation.

    Args:
        dataset: Folder of a LeRobot v3 dataset; actions are normalised by its quantiles.
        out: A new folder.
        chunk: Actions in a chunk, T.
        vocabulary: Most tokens.
        scale: Of the coefficients.
        seed: Of the split by episode.

    Returns:
        What was fitted and what it loses, for people.

    Raises:
        DataError: It is no such dataset, has a joint that never moves, ``out`` exists, or there
            are more coefficients than tokens.
        OSError: The disk refused.
    """
    if out.exists():
        raise FastError(f"{out} exists already, expected the name of a new folder")
    if chunk < 1:
        raise FastError(f"chunk is {chunk}, expected at least 1")
    root = dataset.resolve()
    info = read_info(root)
    schema = dataset_schema(root, info, cameras=())
    split = split_episodes(info["total_episodes"], seed)
    dims = len(schema.action_names)
    training, validation = (
        read_frame_table(root, info["features"], schema.fps, episodes)
        for episodes in (split.train, split.validation)
    )
    scaling = frame_scaling([training], schema, "quantile").action
    fitted = read_chunks(training, chunk, most=max(1, _FITTED // (chunk * dims)))
    held_out = read_chunks(validation, chunk, most=max(1, _MEASURED // (chunk * dims)))
    tokenizer = FastTokenizer.fit(scaling.normalise(fitted), vocabulary, scale)
    tokenizer.write(out)
    settings = tokenizer.settings
    return "\n".join(
        (
            f"{out}: {tokenizer.size} tokens for chunks of {chunk} x {dims}, scale {scale:g}; "
            f"single coefficients, from {settings.minimum} to {settings.maximum}, are "
            f"{settings.maximum - settings.minimum + 1} of them",
            f"fitted to {len(fitted)} chunks of {len(split.train)} episodes, measured on "
            f"{len(held_out)} of {len(split.validation)} others",
            *_measurements(tokenizer, scaling, held_out),
        )
    )


def read_chunks(table: FrameTable, chunk: int, most: int) -> npt.NDArray[np.float32]:
    """Chunks (N, T, A) of a table's actions, at frames that are evenly spread.

    Behind the last action before a break, that last one is repeated.

    Args:
        table: Of the dataset.
        chunk: Actions in a chunk, T.
        most: Chunks; neighbours share all but one of their actions.
    """
    count = len(table.action)
    rows = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    wanted = rows[:, None] + np.arange(chunk)
    return table.action[np.minimum(wanted, table.end[rows, None] - 1)]


def _measurements(
    tokenizer: FastTokenizer, scaling: Scaling, chunks: npt.NDArray[np.float32]
) -> list[str]:
    """Lines on what is lost in tokens of chunks (N, T, A), and on how many there are."""
    normalised = scaling.normalise(chunks)
    tokens = [tokenizer.encode(one) for one in normalised]
    restored = scaling.restore(np.stack([tokenizer.decode(one) for one in tokens]))
    errors = np.abs(restored - chunks)
    lengths = [len(one) for one in tokens]
    width = max(map(len, ("reconstruction error", *scaling.names)))
    return [
        f"tokens per chunk: mean {np.mean(lengths):.1f}, p95 {np.quantile(lengths, 0.95):.0f}, "
        f"max {max(lengths)}",
        f"coefficients clamped: {tokenizer.clamped(normalised):.3%}",
        f"{'reconstruction error':{width}}  {'mean':>9}  {'max':>9}",
        *(
            f"{name:{width}}  {errors[..., i].mean():9.3g}  {errors[..., i].max():9.3g}"
            for i, name in enumerate(scaling.names)
        ),
    ]
