# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures in any form that is known."""

from pathlib import Path

from vla_training.data.errors import DataError
from vla_training.data.vqa.cauldron import read_cauldron
from vla_training.data.vqa.llava import read_llava
from vla_training.data.vqa.questions import Questions


def read_questions(source: Path, pictures: Path | None) -> Questions:
    """Opens questions.

    Args:
        source: JSON file in the form of LLaVA-Instruct, or folder in that of The Cauldron.
        pictures: Folder of the pictures that a JSON file names.

    Raises:
        DataError: They cannot be read, or there are none.
    """
    if not source.is_dir():
        return read_llava(source, pictures)
    if pictures is not None:
        raise DataError(f"{source} has its pictures in it; leave out {pictures}")
    return read_cauldron(source)
