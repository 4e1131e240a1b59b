# SPDX-License-Identifier: Apache-2.0
"""Which tensors lie in the safetensors files of a checkpoint; found out without PyTorch.

No other format is read: pickled weights run whatever code they carry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import is_tensor_file, open_tensors, read_object

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PREFIX = "model."
"""Of LeRobot's policy, which holds the model under that name."""

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: Where it lies.
        key: Its name there.
        shape: Of it.
        dtype: As safetensors names it.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> Iterator[Stored]:
    """All tensors of a checkpoint, by the headers of its files.

    Raises:
        CheckpointError: A file is missing or damaged, holds other tensors than the index says,
            or is of a format that may run code.
    """
    seen: set[str] = set()
    for file, expected in _files(folder).items():
        with open_tensors(file, "numpy") as tensors:
            keys = list(tensors.keys())
            if expected is not None and expected != set(keys):
                raise CheckpointError(
                    f"{file} does not hold the tensors that {INDEX} says: "
                    f"{few(sorted(expected ^ set(keys)))}"
                )
            for key in keys:
                part = tensors.get_slice(key)
                if key.removeprefix(PREFIX) in seen:
                    raise CheckpointError(f"{file}: tensor {key:.200} is there twice")
                seen.add(key.removeprefix(PREFIX))
                yield Stored(file, key, tuple(part.get_shape()), part.get_dtype())


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """Files of weights with the keys that the index gives to them; None without an index."""
    if (folder / FILE).exists():
        return {folder / FILE: None}
    index = folder / INDEX
    if not index.exists():
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLED]
        if pickled:
            raise CheckpointError(
                f"{folder} has its weights in {pickled[0]:.100}, which may run code when it is "
                f"read; expected {FILE}"
            )
        raise CheckpointError(f"{folder / FILE} is missing")
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    files: dict[Path, set[str]] = {}
    for key, name in places.items():
        if not is_tensor_file(name):
            raise CheckpointError(
                f"{index} puts {key:.200} into {name!r:.200}, expected a .safetensors beside it"
            )
        files.setdefault(folder / name, set()).add(key)
    return {**files}


def few(names: Sequence[str]) -> str:
    """A few of them, for a message."""
    few = ", ".join(f"{name:.200}" for name in names[:3])
    return few + (f" and {len(names) - 3} more" if len(names) > 3 else "")
