# SPDX-License-Identifier: Apache-2.0
"""Reading a text file of bounded size."""

from pathlib import Path

from vla_nodes.contract.errors import ContractError


def read_text(file: Path, most: int) -> str:
    """Returns the text of a regular UTF-8 file.

    Args:
        file: Path of the file.
        most: Bytes it may hold.

    Raises:
        ContractError: If it is missing, unreadable, not a regular file, too big or not UTF-8.
    """
    try:
        if not file.is_file():  # also keeps us from waiting on a pipe
            raise ContractError(file, None, "", "no such file", "give the path of a file")
        with file.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        reason = error.strerror or "an unreadable file"
        raise ContractError(file, None, "", reason, "give a file that can be read") from error
    if len(data) > most:
        found, remedy = f"more than {most} bytes", f"keep the file under {most} bytes"
        raise ContractError(file, None, "", found, remedy)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}, which is not UTF-8"
        raise ContractError(file, line, "", found, "save the file as UTF-8 text") from error
