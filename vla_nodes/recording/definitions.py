# SPDX-License-Identifier: Apache-2.0
"""Definitions of message types, which a bag carries so that it can be read anywhere."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import FieldDesc
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_nodes.recording.errors import RecordingError


@dataclass(frozen=True)
class Definition:
    """What a bag says about a message type.

    Attributes:
        text: The type's fields, and after them those of every type within it.
        digest: Its type hash as ROS 2 computes it, ``RIHS01_...``.
    """

    text: str
    digest: str


class Definitions:
    """Finds definitions: those that ROS 2 itself brings, and those of installed packages."""

    def __init__(self) -> None:
        self._store = get_typestore(Stores.ROS2_JAZZY)

    def of(self, name: str) -> Definition:
        """The definition of a type such as ``sensor_msgs/msg/Image``.

        Raises:
            RecordingError: Its package is not installed, or has no such type.
        """
        _learn(self._store, name)
        text, _ = self._store.generate_msgdef(name, ros_version=2)
        return Definition(text, self._store.hash_rihs01(name))


def _learn(store: Typestore, name: str) -> None:
    """Register a type, and every type within it, that the store does not know."""
    if name in store.fielddefs:
        return
    file = _file_of(name)
    try:
        types = get_types_from_msg(file.read_text(), name)
        store.register(types)
    except (OSError, UnicodeDecodeError, TypesysError) as error:
        raise RecordingError(f"{file}: not the definition of {name}: {error}") from error
    for _, fields in types.values():
        for _, kind in fields:
            for part in _named(kind):
                _learn(store, part)


def _named(kind: FieldDesc) -> list[str]:
    """The message type that a field holds, alone or in an array; none for a basic type."""
    match kind:
        case (Nodetype.NAME, str(name)):
            return [name]
        case (Nodetype.ARRAY | Nodetype.SEQUENCE, (element, _)):
            return _named(element)
    return []


def _file_of(name: str) -> Path:
    """The ``.msg`` file of a type: an installed package has it in ``share/`` of its prefix."""
    package, _, _ = name.partition("/")
    found = importlib.util.find_spec(package)
    for place in found.submodule_search_locations or () if found else ():
        for prefix in Path(place).parents:
            if (file := prefix / "share" / f"{name}.msg").is_file():
                return file
    raise RecordingError(f"no definition of {name}: install the package {package}")
