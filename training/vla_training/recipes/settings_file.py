# SPDX-License-Identifier: Apache-2.0
"""Settings in YAML files: options of a command, by name."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from vla_training.recipes.errors import TrainingError

SETTINGS = "settings.yaml"
_LARGEST = 1 << 16  # bytes
_ONCE = ("config", "resume")
"""Options of one call, which are not kept."""
_EMPTY = (None, "", ())


def flat(settings: Any) -> dict[str, Any]:
    """Settings by option, as YAML holds them, without those that are empty if nothing is said."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            found |= flat(value)
        elif field.name not in _ONCE and (value not in _EMPTY or value != field.default):
            found[field.name] = _plain(value)
    return found


def defaults(kind: Any) -> dict[str, Any]:
    """Options that need not be said, as ``flat`` gives them.

    Args:
        kind: Dataclass of the settings.
    """
    found: dict[str, Any] = {}
    kinds = get_type_hints(kind)
    for field in fields(kind):
        if field.default_factory is not MISSING:
            found |= flat(field.default_factory())
        elif is_dataclass(kinds[field.name]):
            found |= defaults(kinds[field.name])
        elif field.name not in _ONCE and field.default not in (MISSING, *_EMPTY):
            found[field.name] = _plain(field.default)
    return found


def write_settings(folder: Path, settings: Any) -> None:
    """Writes ``settings.yaml``, from which the training can be begun anew.

    Raises:
        OSError: The disk refused.
    """
    text = yaml.safe_dump(flat(settings), sort_keys=False, allow_unicode=True)
    aside = folder / f".{SETTINGS}"
    aside.write_text(text, encoding="utf-8")
    aside.replace(folder / SETTINGS)


def read_settings(path: Path) -> dict[str, Any]:
    """The options in a file.

    Raises:
        TrainingError: It is missing, or no YAML of options by name.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise TrainingError(f"{path} is too large: expected at most {_LARGEST} bytes")
        options = yaml.safe_load(content) or {}
    except FileNotFoundError:
        raise TrainingError(f"{path} is missing") from None
    except (OSError, ValueError, AttributeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"{path} cannot be read: {reason:.200}") from error
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise TrainingError(f"{path} holds {type(options).__name__}, expected options by name")
    return options


def with_files(argv: Sequence[str], known: Any) -> list[str]:
    """Puts the options of ``--config FILE``, and on ``--resume`` of the training, before the rest.

    Args:
        argv: Of the command, without its name.
        known: Dataclass of the settings.

    Raises:
        TrainingError: A file cannot be read, or holds what is no option.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        asked, _ = parser.parse_known_args(argv)
    except SystemExit:  # an option lacks its value; whoever parses all of them says so
        return list(argv)
    files = [asked.config] if asked.config else []
    if asked.resume and asked.out:
        files = [asked.out / SETTINGS, *files]
    names = set(_names(known)) - set(_ONCE)
    words: list[str] = []
    for path in files:
        for name, value in read_settings(path).items():
            if name not in names:
                raise TrainingError(f"{path}: {name!r:.100} is no option of this command")
            words += _words(path, name, value)
    return [*words, *argv]


def _names(settings: Any) -> Iterator[str]:
    for name, kind in get_type_hints(settings).items():
        if is_dataclass(kind):
            yield from _names(kind)
        else:
            yield name


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _words(path: Path, name: str, value: Any) -> list[str]:
    """An option as on the command line."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, Mapping):
        raise TrainingError(f"{path}: {name} is {value!r:.100}, expected a value or a list")
    values = value if isinstance(value, list) else [value]
    return [f"--{option}", *map(str, values)]
