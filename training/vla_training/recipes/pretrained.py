# SPDX-License-Identifier: Apache-2.0
"""Published SigLIP and Gemma 3 as parts of a value function.

Their folders are read as transformers saves them; what they compute must be what the parts of a
value function compute, or they are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Gemma3TextConfig, PretrainedConfig, SiglipVisionConfig

from vla_nodes.models.checkpoint_folder import CONFIG, find_checkpoint
from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import damaged, open_tensors, read_object
from vla_nodes.models.pi05_config import GemmaSize, VisionSize
from vla_nodes.models.stored_tensors import Stored, few, stored_tensors
from vla_nodes.models.value_config import Arch, ValueConfig
from vla_nodes.models.value_model import new_layers
from vla_nodes.models.value_parts import make_language, make_vision
from vla_nodes.models.weights import check_finite

_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class _Part:
    """A published model that becomes a part of a value function.

    Attributes:
        name: For people.
        module: Of a value function.
        prefix: Of its tensors; may be missing in the file.
        left_out: Beginnings of keys that the value function does without.
    """

    name: str
    module: str
    prefix: str
    left_out: tuple[str, ...]


_SIGLIP = _Part(
    "SigLIP",
    "vision",
    "vision_model.",
    (
        *("text_model.", "vision_model.head.", "logit_scale", "logit_bias"),
        "vision_model.embeddings.position_ids",  # a count from 0, of old files
    ),
)
# The language head of Gemma 3 is its token embedding; some files hold it a second time.
_GEMMA = _Part("Gemma 3", "language", "model.", ("lm_head.",))

# What, apart from sizes, decides about what a model computes.
_VISION_RULES = ("hidden_act", "layer_norm_eps", "num_channels")
_LANGUAGE_RULES = (
    *("hidden_activation", "rms_norm_eps", "attention_bias", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"),
    *("tie_word_embeddings", "layer_types"),
)


def pretrained_config(
    arch: Arch, siglip: str | None, gemma: str | None, base: ValueConfig
) -> ValueConfig:
    """The sizes of a value function that takes up published parts.

    Args:
        arch: Of the value function.
        siglip: Folder of SigLIP, or OWNER/NAME on the Hub; None leaves the sizes of ``base``.
        gemma: Likewise of Gemma 3.
        base: All else. The size of pictures becomes that which SigLIP was trained for.

    Raises:
        CheckpointError: There is none, or it is none that a value function can take up.
    """
    config = replace(base, arch=arch)
    try:
        if siglip:
            config = _with_siglip(config, find_checkpoint(siglip) / CONFIG)
        if gemma:
            config = _with_gemma(config, find_checkpoint(gemma) / CONFIG)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{siglip or ''} {gemma or ''}: {error}") from error
    return config


def load_pretrained(model: nn.Module, siglip: str | None, gemma: str | None) -> str:
    """Fills the parts of a value function with published weights.

    Args:
        model: A value function of the sizes that ``pretrained_config`` gives; changed in place.
        siglip: Folder of SigLIP, or OWNER/NAME on the Hub; None leaves that part as it is.
        gemma: Likewise of Gemma 3.

    Returns:
        What was loaded and what was not, one line for each part.

    Raises:
        CheckpointError: Sizes or tensors do not fit, or are damaged, or of a format that may
            run code.
    """
    config: ValueConfig = model.config  # type: ignore[assignment]
    wanted = pretrained_config(config.arch, siglip, gemma, config)
    for name in ("vision", "image_size", "language", "window", "vocabulary"):
        found, expected = getattr(wanted, name), getattr(config, name)
        if found != expected:
            of = siglip if name in ("vision", "image_size") else gemma
            raise CheckpointError(f"{of}: {name} is {found}, and the model's {expected}")
    lines = []
    for part, source in ((_SIGLIP, siglip), (_GEMMA, gemma)):
        if source:
            lines.append(_load(model.get_submodule(part.module), part, find_checkpoint(source)))
    new = new_layers(model)
    lines.append(f"new weights: {', '.join(dict.fromkeys(n.partition('.')[0] for n in new))}")
    return "\n".join(lines)


def _with_siglip(config: ValueConfig, file: Path) -> ValueConfig:
    values = read_object(file)
    if values.get("model_type") == "siglip":
        values = values.get("vision_config") or {}
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: vision_config is {values!r:.50}, expected an object")
        values = {"model_type": "siglip_vision_model", **values}
    found = _published(file, values, "siglip_vision_model", SiglipVisionConfig)
    entries = Entries(file, found.to_dict())
    config = replace(
        config,
        vision=VisionSize(
            width=entries.integer("hidden_size"),
            depth=entries.integer("num_hidden_layers"),
            mlp=entries.integer("intermediate_size"),
            heads=entries.integer("num_attention_heads"),
            patch=entries.integer("patch_size"),
        ),
        image_size=entries.integer("image_size"),
    )
    _check_rules(file, found, _built(make_vision, config), _VISION_RULES)
    return config


def _with_gemma(config: ValueConfig, file: Path) -> ValueConfig:
    found = _published(file, read_object(file), "gemma3_text", Gemma3TextConfig)
    entries = Entries(file, found.to_dict())
    config = replace(
        config,
        language=GemmaSize(
            width=entries.integer("hidden_size"),
            depth=entries.integer("num_hidden_layers"),
            mlp=entries.integer("intermediate_size"),
            heads=entries.integer("num_attention_heads"),
            kv_heads=entries.integer("num_key_value_heads"),
            head_dim=entries.integer("head_dim"),
        ),
        window=entries.integer("sliding_window"),
        vocabulary=entries.integer("vocab_size"),
    )
    built = _built(make_language, config)
    _check_rules(file, found, built, _LANGUAGE_RULES)
    for kind in ("full_attention", "sliding_attention"):
        rope, expected = _rope(found, kind), _rope(built, kind)
        if rope != expected:
            raise CheckpointError(
                f"{file}: the rotary embedding of {kind} is {rope}, expected {expected}"
            )
    return config


def _published[C: PretrainedConfig](
    file: Path, values: Mapping[str, Any], kind: str, config: type[C]
) -> C:
    """Reads a configuration, whose defaults only the library knows."""
    found = values.get("model_type")
    if found != kind:
        raise CheckpointError(f"{file}: model_type is {found!r:.50}, expected {kind!r}")
    try:
        return config.from_dict(dict(values))
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} is no configuration of {kind}: {reason:.200}") from error


def _built(make: Callable[[ValueConfig], Any], config: ValueConfig) -> PretrainedConfig:
    """The configuration of a part as a value function builds it."""
    with torch.device("meta"):
        return make(config).config


def _check_rules(
    file: Path, found: PretrainedConfig, built: PretrainedConfig, rules: tuple[str, ...]
) -> None:
    for name in rules:
        value, expected = getattr(found, name, None), getattr(built, name, None)
        if value != expected:
            raise CheckpointError(f"{file}: {name} is {value!r:.100}, expected {expected!r:.100}")


def _rope(config: PretrainedConfig, kind: str) -> dict[str, Any]:
    """Of a kind of layers; older files name it otherwise, which the library has translated."""
    rope = (getattr(config, "rope_parameters", None) or {}).get(kind) or {}
    return {name: value for name, value in rope.items() if value is not None}


def _load(module: nn.Module, part: _Part, folder: Path) -> str:
    """Fills a part; one line about it."""
    wanted = module.state_dict()
    own = part.prefix if any(name.startswith(part.prefix) for name in wanted) else ""
    found: dict[str, Stored] = {}
    left_out, unexpected, wrong = [], [], []
    for tensor in stored_tensors(folder):
        name = own + tensor.key.removeprefix(part.prefix)
        if tensor.key.startswith(part.left_out):
            left_out.append(tensor.key)
        elif name not in wanted or name in found:
            unexpected.append(tensor.key)
        elif tensor.shape != tuple(wanted[name].shape) or tensor.dtype not in _DTYPES:
            expected = tuple(wanted[name].shape)
            wrong.append(f"{tensor.key} is {tensor.dtype} {tensor.shape}, expected {expected}")
        found[name] = tensor
    missing = [name for name in wanted if name not in found]
    kinds = {"missing": missing, "of no part of it": unexpected, "wrong": wrong}
    faults = [f"{len(names)} {kind}: {few(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise CheckpointError(
            f"{folder}: the weights do not fit {part.name} of these sizes: {'; '.join(faults)}"
        )
    _fill(wanted, {name: found[name] for name in wanted})
    check_finite(folder, wanted)
    kinds_left = sorted({key.partition(".")[0] for key in left_out})
    rest = f"; {len(left_out)} left out: {', '.join(kinds_left)}" if left_out else ""
    return f"{part.name} of {folder}: {len(wanted)} tensors{rest}"


@torch.no_grad()
def _fill(tensors: Mapping[str, torch.Tensor], found: Mapping[str, Stored]) -> None:
    for file in sorted({stored.file for stored in found.values()}):
        with open_tensors(file) as opened:
            for name, stored in found.items():
                if stored.file != file:
                    continue
                try:
                    tensors[name].copy_(opened.get_tensor(stored.key))
                except (OSError, SafetensorError) as error:  # of a disk, or a file that changed
                    raise damaged(file, error) from error
