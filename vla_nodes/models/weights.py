# SPDX-License-Identifier: Apache-2.0
"""The weights of a pi0.5 in safetensors, under LeRobot's names, openpi's, or our own.

What a file holds is compared with the model by its header, before anything is read.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vla_nodes.models.checkpoint_folder import CONFIG
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import damaged, open_tensors
from vla_nodes.models.stored_tensors import PREFIX, Stored, few, stored_tensors

EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
DEAD_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""Of the expert, which writes no text; LeRobot builds it and never uses it."""

_DEAD = (DEAD_HEAD, "state_proj.")  # the latter is of pi0, which was converted along
_RENAMED = {"action_time_mlp_in.": "time_mlp_in.", "action_time_mlp_out.": "time_mlp_out."}
_DTYPES = ("F64", "F32", "F16", "BF16")


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
        found += [f"{len(names)} {kind}: {few(names)}" for kind, names in kinds.items() if names]
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
    stored = {tensor.key.removeprefix(PREFIX): tensor for tensor in stored_tensors(folder)}
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
        raise CheckpointError(f"{folder}: weights are not finite numbers: {few(bad)}")


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
    named = {PREFIX + (HEAD if name == EMBEDDING else name): t for name, t in tensors.items()}
    if dead_head:
        named[PREFIX + DEAD_HEAD] = torch.zeros(dead_head, dtype=torch.bfloat16)
    save_tensors(file, named)


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors under the names they have, in one file.

    Args:
        file: To be, in a folder that has its ``config.json``: whoever may read that may read it.
        tensors: By name.

    Raises:
        OSError: The disk refused.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, file, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file}: cannot be written: {error}") from error
    shutil.copymode(file.with_name(CONFIG), file)  # safetensors shuts all others out


def _name(key: str) -> str:
    if key == HEAD:
        return EMBEDDING
    for theirs, ours in _RENAMED.items():
        if key.startswith(theirs):
            return key.replace(theirs, ours, 1)
    return key


def _tensor(tensors: safe_open, stored: Stored) -> Tensor:
    try:
        return tensors.get_tensor(stored.key)
    except (OSError, SafetensorError) as error:  # of a disk, or a file that changed meanwhile
        raise damaged(stored.file, error) from error
