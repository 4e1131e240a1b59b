# SPDX-License-Identifier: Apache-2.0
"""The same small questions in both forms that are read."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}
Entry = tuple[npt.NDArray[np.uint8] | None, Sequence[tuple[str, str]]]


def coloured(count: int, size: tuple[int, int] = (24, 32)) -> list[Entry]:
    """Pictures of one colour each, with two questions."""
    entries: list[Entry] = []
    for k in range(count):
        name = [*COLOURS][k % len(COLOURS)]
        picture = np.full((*size, 3), COLOURS[name], np.uint8)
        picture[: k + 1, : k + 1] = 255  # tells those of a colour apart
        turns = [("what colour is it", name), ("is it blue", "yes" if name == "blue" else "no")]
        entries.append((picture, turns))
    return entries


def encoded(picture: npt.NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """As a file holds it."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def write_llava(folder: Path, entries: Sequence[Entry]) -> tuple[Path, Path]:
    """The JSON file and the folder of pictures; the first turn marks the picture."""
    pictures = folder / "pictures"
    (pictures / "coco").mkdir(parents=True)
    listed = []
    for k, (picture, turns) in enumerate(entries):
        entry: dict[str, Any] = {"id": f"{k}", "conversations": []}
        mark = "" if picture is None else ("<image>\n", "")[k % 2]
        end = "" if picture is None else ("", "\n<image>")[k % 2]
        for question, answer in turns:
            human = {"from": "human", "value": mark + question + end}
            entry["conversations"] += [human, {"from": "gpt", "value": answer}]
            mark = end = ""
        if picture is not None:
            entry["image"] = f"coco/{k:04}.png"
            (pictures / entry["image"]).write_bytes(encoded(picture))
        listed.append(entry)
    file = folder / "instruct.json"
    file.write_text(json.dumps(listed))
    return file, pictures


def cauldron(entries: Sequence[Entry]) -> datasets.Dataset:
    """As Hugging Face's library holds it."""
    rows: dict[str, list[Any]] = {"images": [], "texts": []}
    for picture, turns in entries:
        rows["images"].append(
            [] if picture is None else [{"bytes": encoded(picture), "path": None}]
        )
        rows["texts"].append([{"user": q, "assistant": a, "source": "sample"} for q, a in turns])
    text = {name: datasets.Value("string") for name in ("user", "assistant", "source")}
    features = {"images": datasets.List(datasets.Image()), "texts": datasets.List(text)}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))
