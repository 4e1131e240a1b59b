# SPDX-License-Identifier: Apache-2.0
"""What packets of a video say about the order they belong in, by which a lost one shows.

A decoder conceals a lost packet: it takes another picture for the missing one and says nothing,
so that everything up to the next key frame is smeared.

Sources: ITU-T H.264 (7.3.2.1.1, 7.3.3, 7.4.3), ITU-T H.265 (7.3.1.2, 7.3.2.2, 7.3.2.3, 7.3.3,
7.3.6.1).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_START_CODE = re.compile(rb"\x00\x00\x01")
_HEADER_BYTES = 256  # of a unit; what is read lies within them
_MAX_BITS = 16  # of a number that tells the order; more is damage


class Packet(NamedTuple):
    """What is known of a packet.

    Attributes:
        picture: It holds (a part of) a picture, not only parameters.
        key: The picture needs no other.
        lost: The picture builds on one that did not come.
    """

    picture: bool
    key: bool = False
    lost: bool = False


class _Bits:
    """Reads a unit from its first bit on; zeros after its end."""

    def __init__(self, unit: bytes) -> None:
        self._data = unit.replace(b"\x00\x00\x03", b"\x00\x00")
        self._at = 0

    def u(self, count: int) -> int:
        """An unsigned number of that many bits."""
        first, last = self._at // 8, (self._at + count + 7) // 8
        part = self._data[first:last].ljust(last - first, b"\0")
        self._at += count
        return (int.from_bytes(part) >> (-self._at % 8)) & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = 0
        while zeros < 32 and not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)


class H264Order:
    """Follows ``frame_num``, which rises by one after each picture that others build on.

    It has few bits (16 values are usual), so a loss of just so many packets does not show; nor
    does any where the stream allows gaps, or has scaling matrices, behind which nothing is read.
    """

    def __init__(self) -> None:
        self._bits: int | None = None  # of frame_num; None where it tells nothing
        self._separate = False
        self._last: int | None = None

    def read(self, data: bytes) -> Packet:
        """Takes the next packet in."""
        for unit in _units(data):
            kind, bits = unit[0] & 31, _Bits(unit[1:])
            if kind == 7:
                self._read_parameters(bits)
            elif kind in (1, 2, 5):
                lost = self._follow(bits, is_key=kind == 5, is_reference=bool(unit[0] & 0x60))
                return Packet(True, kind == 5, lost)
        return Packet(False)

    def _follow(self, bits: _Bits, is_key: bool, is_reference: bool) -> bool:
        if self._bits is None:
            return False
        for _ in range(3):  # first macroblock, kind of slice, parameter set
            bits.ue()
        bits.u(2 * self._separate)
        number, last = bits.u(self._bits), self._last
        if is_reference or last is None:
            self._last = number
        return not is_key and last is not None and (number - last) % (1 << self._bits) != 1

    def _read_parameters(self, bits: _Bits) -> None:
        profile = bits.u(8)
        bits.u(16)
        bits.ue()
        self._bits, self._separate = None, False
        if profile in {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}:
            if bits.ue() == 3:
                self._separate = bool(bits.u(1))
            bits.ue()
            bits.ue()
            bits.u(1)
            if bits.u(1):  # scaling matrices
                return
        length = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1)
            bits.ue()
            bits.ue()
            for _ in range(min(bits.ue(), 255)):
                bits.ue()
        bits.ue()
        allows_gaps = bits.u(1)
        self._bits = None if allows_gaps or length > _MAX_BITS else length


class HevcOrder:
    """Follows the pictures' order count, which rises by one from picture to picture.

    Nothing is noticed where pictures are coded in another order than they are shown in
    (B frames).
    """

    def __init__(self) -> None:
        self._bits: int | None = None  # of the order count; None where it tells nothing
        self._separate = False
        self._has_output_flag = False
        self._extra = 0
        self._last: int | None = None

    def read(self, data: bytes) -> Packet:
        """Takes the next packet in."""
        for unit in _units(data):
            kind, bits = unit[0] >> 1 & 63, _Bits(unit[2:])
            if kind == 33:
                self._read_parameters(bits)
            elif kind == 34:
                bits.ue()
                bits.ue()
                bits.u(1)
                self._has_output_flag = bool(bits.u(1))
                self._extra = bits.u(3)
            elif kind < 32:
                return Packet(True, 16 <= kind < 24, self._follow(bits, kind))
        return Packet(False)

    def _follow(self, bits: _Bits, kind: int) -> bool:
        if self._bits is None:
            return False
        is_key = 16 <= kind < 24
        bits.u(1 + is_key)
        bits.ue()
        bits.u(self._extra)
        bits.ue()
        bits.u(self._has_output_flag + 2 * self._separate)
        number, last = 0 if kind in (19, 20) else bits.u(self._bits), self._last
        self._last = number
        return not is_key and last is not None and (number - last) % (1 << self._bits) != 1

    def _read_parameters(self, bits: _Bits) -> None:
        bits.u(4)
        sublayers = bits.u(3)
        bits.u(1)
        bits.u(96)  # profile and level
        present = [(bits.u(1), bits.u(1)) for _ in range(8 if sublayers else 0)]
        for has_profile, has_level in present[:sublayers]:
            bits.u(88 * has_profile + 8 * has_level)
        bits.ue()
        self._separate = bits.ue() == 3 and bool(bits.u(1))
        bits.ue()
        bits.ue()
        if bits.u(1):  # conformance window
            for _ in range(4):
                bits.ue()
        bits.ue()
        bits.ue()
        length = bits.ue() + 4
        reordered = 0
        for _ in range(sublayers + 1 if bits.u(1) else 1):
            bits.ue()
            reordered = bits.ue()
            bits.ue()
        self._bits = None if reordered or length > _MAX_BITS else length


def _units(data: bytes) -> Iterator[bytes]:
    """The first bytes of each unit of a packet."""
    for code in _START_CODE.finditer(data):
        if unit := data[code.end() : code.end() + _HEADER_BYTES]:
            yield unit
