# SPDX-License-Identifier: Apache-2.0
"""A YAML file as a tree of entries that know their file, line and dotted key.

YAML is composed into nodes and only plain values are made of them, so no tag can build an
object. Sizes are bounded: a few aliases can otherwise unfold into billions of values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vla_nodes.contract.errors import ContractError
from vla_nodes.contract.files import read_text

MAX_BYTES = 1 << 20
MAX_ENTRIES = 20_000
MAX_DEPTH = 16

_YAML = "tag:yaml.org,2002:"
_SCALARS = {_YAML + name for name in ("str", "int", "float", "bool", "null")}


@dataclass(frozen=True)
class Entry:
    """One value of the file and where it stands.

    Attributes:
        file: The contract.
        line: Of its key, or of the value where it has none; from 1.
        key: Dotted path from the top, empty at the top.
        value: A scalar, a list of entries, or a dict of entries by name.
    """

    file: Path
    line: int
    key: str
    value: Any

    @property
    def children(self) -> Mapping[str, "Entry"]:
        """The entries of a mapping.

        Raises:
            ContractError: If this is no mapping.
        """
        if not isinstance(self.value, dict):
            raise self.error(describe(self.value), "write a mapping, one `name: value` to a line")
        return self.value

    def at(self, *names: str) -> "Entry":
        """The entry under these names, or the last one above it that the file has."""
        entry = self
        for name in names:
            if not isinstance(entry.value, dict) or name not in entry.value:
                break
            entry = entry.value[name]
        return entry

    def error(self, found: str, remedy: str) -> ContractError:
        """An error about this entry."""
        return ContractError(self.file, self.line, self.key or "top level", found, remedy)

    def missing(self, *names: str, remedy: str) -> ContractError:
        """An error about the key under these names, which the file lacks."""
        key = self.key
        for name in names:
            key = _dotted(key, name)
        return ContractError(self.file, self.at(*names).line, key, "no such key", remedy)


def read_document(file: Path) -> Entry:
    """Reads a YAML file of one document.

    Raises:
        ContractError: If the file cannot be read, is not YAML, has more than MAX_BYTES bytes,
            MAX_ENTRIES values or MAX_DEPTH levels, a duplicate key, or anything besides
            mappings, lists, text, numbers, booleans and null.
    """
    text = read_text(file, MAX_BYTES)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except RecursionError as error:
        raise ContractError(file, None, "", "nesting without end", "nest less deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # Besides YAML's own errors: a character out of range, and `chr` of a huge escape.
        mark = getattr(error, "problem_mark", None)
        words = (getattr(error, "context", None), getattr(error, "problem", None) or str(error))
        found = f"invalid YAML ({' '.join(filter(None, words))[:200]})"
        line = mark.line + 1 if mark else None
        raise ContractError(file, line, "", found, "write one valid YAML document") from error
    if node is None:
        raise ContractError(file, None, "", "an empty file", "write a contract")
    return _Builder(file, loader).entry(node, "", _line(node), 0)


def describe(value: Any) -> str:
    """A value of the file, short and on one line, for an error."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a mapping of {len(value)}"
    if value is None:
        return "nothing"
    shown = repr(value) if isinstance(value, str | bool) else f"{value:.12g}"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


@dataclass
class _Builder:
    """Turns nodes into entries and counts them."""

    file: Path
    loader: yaml.SafeLoader
    entries: int = 0

    def entry(self, node: yaml.Node, key: str, line: int, depth: int) -> Entry:
        self.entries += 1
        here = Entry(self.file, line, key, None)
        if self.entries > MAX_ENTRIES:
            raise here.error(f"more than {MAX_ENTRIES} values", "use fewer values or aliases")
        if depth > MAX_DEPTH:
            raise here.error(f"more than {MAX_DEPTH} levels", "nest less deeply")
        if isinstance(node, yaml.MappingNode) and node.tag == _YAML + "map":
            return replace(here, value=self.mapping(node, here, depth))
        if isinstance(node, yaml.SequenceNode) and node.tag == _YAML + "seq":
            items = enumerate(node.value)
            value = [self.entry(item, f"{key}[{i}]", _line(item), depth + 1) for i, item in items]
            return replace(here, value=value)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return replace(here, value=self.scalar(node, here))
        tag = describe(node.tag.removeprefix(_YAML))
        raise here.error(f"a value of type {tag}", "write plain text, numbers and lists")

    def scalar(self, node: yaml.ScalarNode, here: Entry) -> Any:
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError, OverflowError) as error:
            raise here.error(describe(node.value), "write a value that YAML can read") from error
        if isinstance(value, int) and value.bit_length() > 63:
            found = f"an integer of {value.bit_length()} bits"
            raise here.error(found, "write one that fits into 64 bits")
        return value

    def mapping(self, node: yaml.MappingNode, here: Entry, depth: int) -> dict[str, Entry]:
        children: dict[str, Entry] = {}
        for name_node, value_node in node.value:
            name, line = name_node.value, _line(name_node)
            shown = f"the key {describe(name)}"
            if name_node.tag != _YAML + "str":
                remedy = "keys are text: put this one in quotes, or spell it out"
                raise replace(here, line=line).error(shown, remedy)
            if name in children:
                found = f"{shown} again, first on line {children[name].line}"
                raise replace(here, line=line).error(found, "remove one of the two")
            children[name] = self.entry(value_node, _dotted(here.key, name), line, depth + 1)
        return children


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _dotted(key: str, name: str) -> str:
    shown = name if name and name.isprintable() and len(name) <= 60 else describe(name)
    return f"{key}.{shown}" if key else shown
