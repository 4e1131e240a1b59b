# SPDX-License-Identifier: Apache-2.0
"""Files of a bag, opened by what they begin with."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

from vla_training.data.bags.chunks import ZSTD
from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.mcap_file import McapFile
from vla_training.data.bags.mcap_index import MAGIC as MCAP
from vla_training.data.bags.ros1_file import Ros1File
from vla_training.data.bags.sqlite_file import SqliteFile
from vla_training.data.bags.storage import GIB, Storage

SUFFIXES = (".mcap", ".db3", ".bag", ".mcap.zstd", ".db3.zstd")

_BLOCK = 4 << 20  # bytes
_FORMATS: dict[bytes, type[McapFile] | type[SqliteFile] | type[Ros1File]] = {
    MCAP: McapFile,
    b"SQLite format 3\0": SqliteFile,
    b"#ROSBAG V2.0\n": Ros1File,
}


def open_file(path: Path, stack: ExitStack, notes: list[str]) -> Storage:
    """Opens one file of a bag.

    Args:
        path: Of the file, which may be compressed as a whole.
        stack: Closes the file, and removes what was decompressed.
        notes: Takes what was lost in decompressing.

    Raises:
        BagError: Not a bag, or damaged beyond use.
    """
    if not path.is_file():
        raise BagError(f"{shown(path, 500)} is not a file")
    with bag_errors(path), path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise BagError(f"{shown(path, 500)} is empty")
    if head.startswith(ZSTD):
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vla_bag_")))
        path = _decompress(path, folder, notes)
        with path.open("rb") as file:
            head = file.read(16)
    for magic, kind in _FORMATS.items():
        if head.startswith(magic):
            storage = kind(path)
            stack.callback(storage.close)
            return storage
    raise BagError(
        f"{shown(path, 500)} is not a bag: expected MCAP, SQLite (.db3) or a .bag of ROS 1"
    )


def _decompress(path: Path, folder: Path, notes: list[str]) -> Path:
    """Decompresses a file into a folder, as far as it goes."""
    out = folder / path.stem
    with bag_errors(path), path.open("rb") as source, out.open("wb") as target:
        reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        try:
            while block := reader.read(_BLOCK):
                if shutil.disk_usage(folder).free < GIB:
                    raise BagError(
                        f"{shown(path, 500)}: no room to decompress it in {folder.parent}; "
                        "set TMPDIR to a folder on a larger disk"
                    )
                target.write(block)
        except zstandard.ZstdError as error:
            found = f"{target.tell()} bytes of its content were read"
            notes.append(f"{shown(path.name)} is damaged: {found}; {shown(error)}")
    return out
