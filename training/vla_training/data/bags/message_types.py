# SPDX-License-Identifier: Apache-2.0
"""Serialized messages to objects, by the definitions in the bag or by those known here."""

import os
import re
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from vla_training.data.bags.chunks import ZSTD, unzstd
from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.storage import SIZE_LIMIT, Stream

Decoder = Callable[[bytes | memoryview], Any]

# Videos that cameras and Foxglove publish; no ROS distribution carries the definitions.
_VIDEO_TYPES = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": """\
std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
""",
    "foxglove_msgs/msg/CompressedVideo": """\
builtin_interfaces/Time timestamp
string frame_id
uint8[] data
string format
""",
}

_IDL_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_IDL_INCLUDES = re.compile(r"^#include.*$", re.MULTILINE)
_CDR_HEAD = 4  # bytes
_MAX_DEFINITION = 1 << 20  # characters; the longest of the common ones have 60 000
_MAX_ARRAY = 1 << 20  # numbers in an array of fixed length
_MAX_STRUCTURES = 1 << 10  # structures or strings in one: each becomes a line of code
# A structure or a string of a few bytes becomes an object of a hundred or more.
_MAX_STRUCTURED = 32 << 20  # bytes of a message that holds sequences of them


def decoder(stream: Stream, where: object) -> Decoder:
    """What makes objects of a stream's messages.

    The definition in the bag counts; where there is none, one that is known here.
    Arrays of numbers are views of the bytes they came in.

    Args:
        stream: Which file it is of does not matter.
        where: Bag to name in errors.

    Raises:
        BagError: Names the topic and its type; from the decoder itself, only the reason.
    """
    of = f"{shown(where, 500)}: topic {shown(stream.topic)} of type {shown(stream.type)}"
    if stream.encoding not in ("cdr", "ros1"):
        raise BagError(f"{of} is encoded as {shown(stream.encoding)!r}, expected 'cdr'")
    with bag_errors(f"{of} has a definition that cannot be used"):
        store = _store(stream.type, stream.definition)
        limit = SIZE_LIMIT if store is None else _size_limit(store, stream.type)
    if store is None:
        raise BagError(
            f"{of}: the bag has no definition of the type and it is not a known one; record as "
            "MCAP, which carries definitions, or build and source the package of the type"
        )
    compressible = stream.encoding == "cdr"
    kind = stream.type
    deserialize = partial(_from_cdr if compressible else Typestore.deserialize_ros1, store)

    def decode(data: bytes | memoryview) -> Any:
        try:
            # No head of CDR begins like a frame of zstd.
            if compressible and data[:4] == ZSTD:
                data = unzstd(data, limit)
            if len(data) > limit:
                raise ValueError(f"{len(data)} bytes, more than the limit of {limit}")
            return deserialize(memoryview(data), kind)
        except Exception as error:  # nearly anything, see ``bag_errors``
            raise BagError(shown(error) or type(error).__name__) from error

    return decode


def _from_cdr(store: Typestore, data: memoryview, kind: str) -> Any:
    """Deserializes as ROS does, which takes no offence at bytes behind a message.

    ROS's own serializers leave some there: they reserve room to align the elements of a sequence
    even where it is empty. There cannot be more of them than the message itself has bytes.

    Raises:
        ValueError: There are more, or this is no message; as may other errors.
    """
    kinds = store.get_msgdef(kind)
    parsers = {b"\0\0": kinds.deserialize_cdr_be, b"\0\1": kinds.deserialize_cdr_le}
    if (parse := parsers.get(bytes(data[:2]))) is None or len(data) < _CDR_HEAD:
        raise ValueError(f"it begins with {bytes(data[:2])!r}, expected the head of CDR")
    message, end = parse(data[_CDR_HEAD:], 0, kinds.cls, store)
    if (behind := len(data) - _CDR_HEAD - end) > _CDR_HEAD + end:
        raise ValueError(f"{behind} bytes follow the {end} of the message")
    return message


@lru_cache(maxsize=256)
def _store(kind: str, definition: MessageDefinition) -> Typestore | None:
    """A store of its own for each definition: two bags may differ in a type of one name."""
    if definition.format is MessageDefinitionFormat.NONE or not definition.data.strip():
        known = _known_types()
        return known if kind in known.types else None
    text = definition.data
    if len(text) > _MAX_DEFINITION:
        raise ValueError(f"{len(text)} characters, more than the limit of {_MAX_DEFINITION}")
    msg = definition.format is MessageDefinitionFormat.MSG
    types = get_types_from_msg(text, kind) if msg else _types_from_idl(text)
    for _, fields in types.values():
        for name, field in fields:
            _check_array(name, field)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    store.get_msgdef(kind)  # makes the code now, so that a type that is missing shows now
    return store


def _types_from_idl(text: str) -> Any:
    """Types of the IDL files that a definition strings together.

    Raises:
        ValueError: Expressions that no generator of ROS writes, and that take the parser
            exponential time or memory.
    """
    code = _IDL_TEXTS.sub("", text)
    nested = re.search(r"\([^()]*\(", code)
    if nested or "<<" in code:
        raise ValueError("its IDL computes constants, expected literals")
    types = {}
    # The parser knows no includes; what they name is in the text too.
    for part in re.split(r"^=+\nIDL: .*\n", _IDL_INCLUDES.sub("", text), flags=re.MULTILINE):
        if part.strip():
            types.update(get_types_from_idl(part))
    return types


def _check_array(name: str, field: Any) -> None:
    """Refuses an array that costs memory or time which the message's bytes do not pay for."""
    node, content = field
    if node is Nodetype.ARRAY:
        (inner, element), length = content
        plain = inner is Nodetype.BASE and element[0] != "string"
        if not 0 < length <= (_MAX_ARRAY if plain else _MAX_STRUCTURES):
            raise ValueError(f"array {name} of length {length}")


def _size_limit(store: Typestore, kind: str) -> int:
    """Bytes that a message of a type may have."""
    return _MAX_STRUCTURED if _structured(store, kind) else SIZE_LIMIT


def _structured(store: Typestore, kind: str) -> bool:
    """Whether a type holds, at any depth, a sequence of structures or of strings."""
    fields: Any = store.fielddefs[kind][1]
    for _, (node, content) in fields:
        many = node is Nodetype.SEQUENCE
        element, of = content[0] if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (node, content)
        if element is Nodetype.NAME:
            if many or _structured(store, of):
                return True
        elif many and of[0] == "string":
            return True
    return False


@lru_cache(maxsize=1)
def _known_types() -> Typestore:
    """Types of Jazzy, of video packets, and of the project where it is installed."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in (_VIDEO_TYPES | _interfaces("vla_interfaces")).items():
        store.register(get_types_from_msg(text, name))
    return store


def _interfaces(package: str) -> dict[str, str]:
    """Messages that an installed ROS package defines; none where it is not installed."""
    sourced = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [sys.prefix, *reversed(sourced)]  # of one file in two places, the last counts
    folders = (Path(prefix, "share", package, "msg") for prefix in prefixes if prefix)
    files = (path for folder in folders for path in sorted(folder.glob("*.msg")))
    return {f"{package}/msg/{path.stem}": path.read_text() for path in files}
