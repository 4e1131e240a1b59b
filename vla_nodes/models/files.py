# SPDX-License-Identifier: Apache-2.0
"""Files of a checkpoint: bounded when read, whole when written."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any, Literal, TypeGuard

from safetensors import SafetensorError, safe_open

from vla_nodes.models.errors import CheckpointError

_MAX_HEADER = 8 << 20  # bytes of a safetensors file's; that of the full model has 0.1 MB


def read_text(path: Path, limit: int) -> str:
    """The text of a file.

    Args:
        path: Of the file.
        limit: Most bytes that such a file has.

    Raises:
        CheckpointError: It is missing, larger, or no text.
    """
    _check_is_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise CheckpointError(f"{path} is too large: expected at most {limit} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.200}") from error


def read_object(path: Path, limit: int = 1 << 20) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: Of the file.
        limit: Most bytes that such a file has.

    Raises:
        CheckpointError: It is missing, larger, or holds something else.
    """
    text = read_text(path, limit)
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # fails at half of a Unicode character
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def is_tensor_file(name: Any) -> TypeGuard[str]:
    """Whether a file of a checkpoint names a safetensors file beside itself."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.-]{1,200}\.safetensors", name))


def open_tensors(path: Path, framework: Literal["pt", "numpy"] = "pt") -> safe_open:
    """A safetensors file, of which only the header has been read.

    Args:
        path: Of the file.
        framework: Of the tensors that will be read; "numpy" loads no PyTorch.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    _check_is_file(path)
    try:
        with path.open("rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if header > _MAX_HEADER:
            raise CheckpointError(
                f"{path} is no safetensors file: its header would have {header} bytes, "
                f"expected at most {_MAX_HEADER}"
            )
        return safe_open(path, framework=framework, backend="pread")
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """What to raise where a safetensors file cannot be read."""
    return CheckpointError(f"{path} is damaged or cut off, copy it again: {error!s:.200}")


def _check_is_file(path: Path) -> None:
    """Also keeps from waiting for ever at a pipe."""
    if not path.is_file():
        kind = "is no regular file" if path.exists() else "is missing"
        raise CheckpointError(f"{path} {kind}")


def write_text(path: Path, text: str) -> None:
    """Writes a file aside, then renames it, so that it is whole or not there.

    Raises:
        OSError: The disk refused.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file of that name
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object for people to read, whole or not at all.

    Raises:
        OSError: The disk refused.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def sync(path: Path) -> None:
    """Has a file or folder written to the disk.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of network file systems that do not take folders
            raise
    finally:
        os.close(descriptor)
