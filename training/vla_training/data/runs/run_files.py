# SPDX-License-Identifier: Apache-2.0
"""Files of runs: arrays, JPEGs and folders, none of which may lie outside a root."""

import os
import re
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from vla_nodes.observation.codecs import Picture, decode_compressed
from vla_nodes.observation.errors import CodecError
from vla_nodes.observation.headers import read_header
from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError

_WHOLE = re.compile(r"([0-9]+)")
_DECIMAL = re.compile(r"([0-9]+(?:\.[0-9]+)?)")
_MAX_JPEG = 64 * 1024**2
_MAX_VECTOR = 1024


def open_array(path: Path) -> npt.NDArray[np.floating]:
    """Opens an array of rows, (frames, values); what its header claims is never allocated.

    Raises:
        DataError: It is missing, or something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except Exception as error:  # of a damaged header NumPy makes anything, TokenError for one
        raise DataError(f"{path} cannot be read: {shown(error)}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{path} holds {found}, expected floats of (frames, values)")
    if not (array.shape[0] and 0 < array.shape[1] <= _MAX_VECTOR):
        raise DataError(
            f"{path} has shape {array.shape}, expected frames of 1 to {_MAX_VECTOR} values"
        )
    return array


def list_jpegs(folder: Path, root: Path) -> tuple[Path, ...]:
    """The JPEGs of a folder, by number.

    Raises:
        DataError: Their order is not clear, or a link leads out of the root.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith((".jpg", ".jpeg")):
                continue
            path = Path(entry.path)
            found.append(inside(path, root) if entry.is_symlink() else path)
    counted = sorted(found, key=lambda path: _natural(path.name))
    measured = sorted(found, key=lambda path: _natural(path.name, _DECIMAL))
    for path, other in zip(counted, measured, strict=True):
        if path != other:
            raise DataError(
                f"{folder}: {path.name} and {other.name} could come in either order; expected "
                "whole numbers, or as many digits behind every point"
            )
    return tuple(counted)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a JPEG.

    Raises:
        DataError: It is none.
    """
    return _size(path, _read_jpeg(path))


def read_picture(path: Path, size: tuple[int, int]) -> Picture:
    """Decodes a JPEG of a known (height, width) to (H, W, 3) uint8 RGB.

    Raises:
        DataError: It cannot be decoded, or has another size.
    """
    data = _read_jpeg(path)
    found = _size(path, data)
    if found != size:
        raise DataError(
            f"{path} has {found[1]} x {found[0]} px, "
            f"expected {size[1]} x {size[0]} as the first of the camera"
        )
    try:
        return decode_compressed(SimpleNamespace(data=data))
    except CodecError as error:
        raise DataError(f"{path}: {error}") from error


def list_folders(folder: Path, root: Path) -> list[Path]:
    """Folders in a folder, in natural order, hidden ones left out.

    Raises:
        DataError: A link leads out of the root.
    """
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [inside(path, root) for path in sorted(inner, key=lambda path: _natural(path.name))]


def inside(path: Path, root: Path) -> Path:
    """The path itself, which lies below the root.

    Raises:
        DataError: A link leads out of the root.
    """
    if not path.resolve().is_relative_to(root):
        raise DataError(f"{path} leads out of {root}")
    return path


def _read_jpeg(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_JPEG:
            raise DataError(f"{path} is larger than {_MAX_JPEG >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _size(path: Path, data: bytes) -> tuple[int, int]:
    try:
        header = read_header(data)
    except CodecError as error:
        raise DataError(f"{path}: {error}") from error
    if header.format != "jpeg":
        raise DataError(f"{path} is a {header.format}, expected a JPEG")
    return header.height, header.width


def _natural(name: str, number: re.Pattern[str] = _WHOLE) -> tuple[list[str | Decimal], str]:
    """Sorts numbers in names by their value."""
    parts: list[str | Decimal] = [*number.split(name)]
    parts[1::2] = [Decimal(part) for part in parts[1::2]]
    return parts, name
