# SPDX-License-Identifier: Apache-2.0
"""What tells a training's parts from others, for ``Job.identity``."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory


def digest(content: bytes) -> str:
    """A short name of some content."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digests(write: Callable[[Path], None]) -> dict[str, str]:
    """Digests of all files that something writes into a folder, by their paths in it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): digest(path.read_bytes()) for path in files}
