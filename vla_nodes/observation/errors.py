# SPDX-License-Identifier: Apache-2.0
"""What a sample that cannot be used raises."""


class CodecError(ValueError):
    """A camera frame is corrupt or is not what the contract says."""


class JointError(ValueError):
    """A joint state is malformed or lacks what the contract asks for."""


def expect(field: str, found: object, expected: object) -> None:
    """Raises a CodecError that names the field where found and expected differ."""
    if found != expected:
        raise CodecError(f"{field} is {found!r}, expected {expected!r}")
