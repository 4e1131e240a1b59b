# SPDX-License-Identifier: Apache-2.0
"""The weights of a pi0.5 in safetensors, under LeRobot's names, openpi's, or our own.

What a file holds is compared with the model by its header, before anything is read. No other
format is read: pickled weights run whatever code they carry.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import damaged, is_tensor_file, open_tensors, read_object

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
DEAD_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""Of the expert, which writes no text; LeRobot builds it and never uses it."""

_PREFIX = "model."  # of LeRobot's policy, which holds the model under that name
_DEAD = (DEAD_HEAD, "state_proj.")  # the latter is of pi0, which was converted along
_RENAMED = {"action_time_mlp_in.": "time_mlp_in.", "action_time_mlp_out.": "time_mlp_out."}
_DTYPES = ("F64", "F32", "F16", "BF16")
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


@dataclass(frozen=True)
class KeyReport:
    """How the tensors of a checkpoint fit a model.

    Attributes:
        loaded: Names of the model's tensors that the checkpoint has.
        missing: Those that it has not.
        unexpected: Keys of the checkpoint that the model does not know.
        wrong: Tensors of another shape or type, with what was found and expected.
        aliased: Keys that are read under another name.
        ignored: Keys of what the model does not have and its actions never need. A language
            head beside the token embedding is one: LeRobot does not train it.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[str, ...]
    aliased: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the model gets all it has from the checkpoint, and nothing is left over."""
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        """One line; of each kind a few names."""
        total = len(self.loaded) + len(self.missing) + len(self.wrong)
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "wrong": self.wrong,
            "aliased": self.aliased,
            "ignored": self.ignored,
        }
        found = [f"{len(self.loaded)} of {total} tensors"]
        found += [f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds.items() if names]
        return "; ".join(found)


def compare(
    folder: Path, model: nn.Module, *, strict: bool = True
) -> tuple[KeyReport, dict[str, Stored]]:
    """Compares a checkpoint's weights with a model, by their headers alone.

    Args:
        folder: The checkpoint.
        model: May lie on the meta device.
        strict: Whether to refuse weights that do not fit the model exactly.

    Returns:
        The report, and by the model's names what is to be read.

    Raises:
        CheckpointError: The weights do not fit, are missing, or damaged.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {tensor.key.removeprefix(_PREFIX): tensor for tensor in _list_tensors(folder)}
    found: dict[str, Stored] = {}
    seen: set[str] = set()
    unexpected, wrong, aliased, ignored = [], [], [], []
    for key, tensor in stored.items():
        name = _name(key)
        if key.startswith(_DEAD) or (key == HEAD and EMBEDDING in stored):
            ignored.append(key)
            continue
        if name not in wanted or name in seen:
            unexpected.append(key)
        elif tensor.shape != wanted[name] or tensor.dtype not in _DTYPES:
            wrong.append(
                f"{name} is {tensor.dtype} {tensor.shape}, expected {'/'.join(_DTYPES)} "
                f"{wanted[name]}"
            )
        else:
            found[name] = tensor
            aliased += [key] if name != key else []
        seen.add(name)
    missing = [name for name in wanted if name not in seen]
    lists = (list(found), missing, unexpected, wrong, aliased, ignored)
    report = KeyReport(*map(tuple, lists))
    if strict and not report.complete:
        raise CheckpointError(f"{folder}: the weights do not fit the model: {report}")
    return report, found


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path, *, strict: bool = True) -> KeyReport:
    """Fills a model, tensor by tensor, in the type and on the device that its parameters have.

    Args:
        model: Changed in place; where ``strict`` is off, what the checkpoint lacks or has in
            another shape stays as it is.
        folder: The checkpoint.
        strict: Whether to refuse weights that do not fit the model exactly. Off to begin
            training from the checkpoint of another robot.

    Raises:
        CheckpointError: The weights do not fit, are damaged, or not finite.
    """
    report, found = compare(folder, model, strict=strict)
    parameters = model.state_dict()
    for file in sorted({stored.file for stored in found.values()}):
        with open_tensors(file) as tensors:
            for name, stored in found.items():
                if stored.file == file:
                    parameters[name].copy_(_tensor(tensors, stored))
    check_finite(folder, {name: parameters[name] for name in found})
    return report


def check_finite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Checks that weights are numbers.

    Raises:
        CheckpointError: They are not.
    """
    extremes = {name: torch.stack(tensor.aminmax()) for name, tensor in tensors.items()}
    bad = [name for name, values in extremes.items() if not values.isfinite().all()]
    if bad:
        raise CheckpointError(f"{folder}: weights are not finite numbers: {_few(bad)}")


def save_weights(
    file: Path, tensors: Mapping[str, Tensor], dead_head: tuple[int, int] | None
) -> None:
    """Writes weights as LeRobot's ``PI05Policy`` does, in one file.

    The token embedding is stored as the language head, which is how LeRobot's policies come
    to share them.

    Args:
        file: Of the weights.
        tensors: By the model's names.
        dead_head: Shape of the expert's head, which LeRobot misses where it is not there; it is
            written as zeros. None for none.

    Raises:
        OSError: The disk refused.
    """
    named = {_PREFIX + (HEAD if name == EMBEDDING else name): t for name, t in tensors.items()}
    if dead_head:
        named[_PREFIX + DEAD_HEAD] = torch.zeros(dead_head, dtype=torch.bfloat16)
    try:
        save_file(
            {key: t.detach().contiguous() for key, t in named.items()}, file, {"format": "pt"}
        )
    except SafetensorError as error:
        raise OSError(f"{file}: cannot be written: {error}") from error


def _name(key: str) -> str:
    if key == HEAD:
        return EMBEDDING
    for theirs, ours in _RENAMED.items():
        if key.startswith(theirs):
            return key.replace(theirs, ours, 1)
    return key


def _few(names: Sequence[str]) -> str:
    few = ", ".join(f"{name:.200}" for name in names[:3])
    return few + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _list_tensors(folder: Path) -> Iterator[Stored]:
    """Of all files; a key that two of them have is an error."""
    seen: set[str] = set()
    for file, expected in _read_index(folder).items():
        with open_tensors(file) as tensors:
            keys = list(tensors.keys())
            if expected is not None and expected != set(keys):
                raise CheckpointError(
                    f"{file} does not hold the tensors that {INDEX} says: "
                    f"{_few(sorted(expected ^ set(keys)))}"
                )
            for key in keys:
                part = tensors.get_slice(key)
                if key.removeprefix(_PREFIX) in seen:
                    raise CheckpointError(f"{file}: tensor {key:.200} is there twice")
                seen.add(key.removeprefix(_PREFIX))
                yield Stored(file, key, tuple(part.get_shape()), part.get_dtype())


def _read_index(folder: Path) -> dict[Path, set[str] | None]:
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


def _tensor(tensors: safe_open, stored: Stored) -> Tensor:
    try:
        return tensors.get_tensor(stored.key)
    except (OSError, SafetensorError) as error:  # of a disk, or a file that changed meanwhile
        raise damaged(stored.file, error) from error
