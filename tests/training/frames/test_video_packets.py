# SPDX-License-Identifier: Apache-2.0
"""Cameras that send packets of a video: real H.264 and H.265, made here."""

import io
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import NamedTuple

import av
import numpy as np
import pytest
from bag_samples import EPOCH, MS, header
from frame_samples import FRONT, convert, frames_of, gaps_of, in_order, only_front, steady
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_training.data.bags.bag import Sample
from vla_training.data.frames.video_packets import VideoDecoder

FOXGLOVE = "foxglove_msgs/msg/CompressedVideo"
FFMPEG = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
WIDTH, HEIGHT = 96, 64
CAMERA = replace(FRONT, type=FOXGLOVE, encoding="h264", width=WIDTH, height=HEIGHT)
PERIOD = 33 * MS
GOP = 10


class Packet(NamedTuple):
    """A packet in the order it was sent, and which picture it holds."""

    picture: int
    is_key: bool
    data: bytes


class Film(NamedTuple):
    """Packets, and the pictures that a player shows of them."""

    packets: list[Packet]
    pictures: list[np.ndarray]


def scene(index, width=WIDTH, height=HEIGHT):
    """A picture in which everything moves."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin((x + 3 * index) / 9 + k) * np.cos((y - 2 * index) / 7) for k in range(3)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def film(codec="h264", b_frames=0, count=40, size=(WIDTH, HEIGHT)):
    encoder = av.CodecContext.create({"h264": "libx264", "hevc": "libx265"}[codec], "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.gop_size = GOP
    encoder.max_b_frames = b_frames
    encoder.options = {"crf": "12", "preset": "veryfast", "sc_threshold": "0"}
    if codec == "hevc":
        x265 = f"log-level=none:keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes={b_frames}"
        encoder.options = {"preset": "veryfast", "x265-params": x265}
    sent = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(scene(index, *size), "rgb24")
        frame.pts = index
        sent += encoder.encode(frame)
    sent += encoder.encode(None)
    packets = [Packet(packet.pts, packet.is_keyframe, bytes(packet)) for packet in sent]
    file = io.BytesIO(b"".join(packet.data for packet in packets))
    with av.open(file, format=codec) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(pictures) == count
    return Film(packets, pictures)


FILMS = {
    (codec, b_frames): film(codec, b_frames)
    for codec, b_frames in (("h264", 0), ("h264", 3), ("hevc", 0), ("hevc", 3))
}
every_film = pytest.mark.parametrize("kind", FILMS, ids=lambda kind: f"{kind[0]}-{kind[1]}")


def message(packet, kind=FOXGLOVE, codec="h264"):
    stamp = stamp_of(packet.picture)
    data = np.frombuffer(packet.data, np.uint8)
    if kind == FOXGLOVE:
        time = header(stamp).stamp
        name = {"hevc": "h265"}.get(codec, codec)
        return SimpleNamespace(timestamp=time, frame_id="", data=data, format=name)
    return SimpleNamespace(header=header(stamp), encoding=f"lib{codec};yuv420p", data=data)


def stamp_of(picture):
    return EPOCH + picture * PERIOD


def decode(packets, codec="h264", kind=FOXGLOVE):
    """By picture what became of it, in the order that came out."""
    decoder = VideoDecoder(replace(CAMERA, type=kind, encoding=codec))
    out = []
    for number, packet in enumerate(packets):
        stamp = stamp_of(packet.picture)
        out += decoder.add(message(packet, kind, codec), stamp, stamp + number)
    out += decoder.flush()
    stamps = [decoded.stamp for decoded in out]
    assert len(set(stamps)) == len(stamps)
    return {(decoded.stamp - EPOCH) // PERIOD: decoded for decoded in out}


def shown(decoded, pictures):
    """The pictures that came out; each must be the one that a player shows."""
    for index, one in decoded.items():
        assert (one.image is None) == bool(one.error)
        if one.image is not None:
            rows = one.image.data.reshape(one.image.height, one.image.width, 3)
            np.testing.assert_array_equal(rows, pictures[index])
    return sorted(index for index, one in decoded.items() if one.image is not None)


@every_film
@pytest.mark.parametrize("message_type", [FOXGLOVE, FFMPEG])
def test_every_picture_comes_out_with_its_own_stamp(kind, message_type):
    packets, pictures = FILMS[kind]
    assert shown(decode(packets, kind[0], message_type), pictures) == list(range(len(pictures)))
    if kind[1]:
        assert [p.picture for p in packets] != sorted(p.picture for p in packets)


@every_film
def test_a_bag_that_begins_between_key_frames_gives_pictures_from_the_next_one_on(kind):
    packets, pictures = FILMS[kind]
    decoded = decode(packets[4:], kind[0])
    key = next(p.picture for p in packets[4:] if p.is_key)
    assert shown(decoded, pictures) == list(range(key, len(pictures)))
    assert {d.error for d in decoded.values() if d.image is None} == {"no key frame came yet"}
    # Every packet is accounted for: none leaves the picture before it standing.
    assert set(decoded) == {p.picture for p in packets[4:]}


@pytest.mark.parametrize("kind", [("h264", 0), ("h264", 3), ("hevc", 0)])
@pytest.mark.parametrize("lost", [1, 4, 10, 13, 17])
def test_after_a_lost_packet_nothing_is_shown_until_the_next_key_frame(kind, lost):
    packets, pictures = FILMS[kind]
    left = [p for i, p in enumerate(packets) if i != lost]
    decoded = decode(left, kind[0])
    assert set(decoded) == {p.picture for p in left}
    good = shown(decoded, pictures)
    key = min(p.picture for p in packets[lost + 1 :] if p.is_key)
    assert set(range(key, len(pictures))) <= set(good)
    sent_before = {p.picture for p in packets[:lost]}
    if not kind[1]:
        assert set(good) == sent_before | set(range(key, len(pictures)))


@pytest.mark.parametrize("lost", range(1, 25))
def test_loss_of_b_frames_that_nothing_builds_on_costs_only_themselves(lost):
    packets, pictures = FILMS["h264", 3]
    good = shown(decode([p for i, p in enumerate(packets) if i != lost]), pictures)
    is_reference = bool(packets[lost].data[packets[lost].data.index(b"\0\0\1") + 3] & 0x60)
    if not is_reference:
        assert len(good) == len(pictures) - 1


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((("h264", b), damage) for b in (0, 3) for damage in ("cut", "bits", "zeros", "garbage")),
        *((("hevc", b), "garbage") for b in (0, 3)),
    ],
)
def test_a_damaged_packet_spoils_nothing_that_is_shown(kind, damage):
    packets, pictures = FILMS[kind]
    packet = packets[12]
    data = bytearray(packet.data)
    half = len(data) // 2
    spoilt = {
        "cut": data[:half],
        "bits": data[:half] + bytes(b ^ 0x5A for b in data[half:]),
        "zeros": data[:half] + bytes(half),
        "garbage": np.random.default_rng(1).bytes(60),
    }[damage]
    damaged = [*packets[:12], packet._replace(data=bytes(spoilt)), *packets[13:]]
    decoded = decode(damaged, kind[0])
    good = shown(decoded, pictures)
    assert packet.picture not in good
    assert set(good) >= set(range(10)) | set(range(20, len(pictures)))
    assert set(decoded) == set(range(len(pictures)))


def test_a_packet_of_another_codec_or_size_is_refused():
    packets, pictures = FILMS["h264", 0]
    other = FILMS["hevc", 0].packets
    decoder = VideoDecoder(CAMERA)
    (refused,) = decoder.add(message(other[0], codec="hevc"), EPOCH, EPOCH)
    assert refused.error == "format is 'h265', expected 'h264'"
    small = film(size=(64, 48), count=3)
    decoded = decode(small.packets)
    assert {d.error for d in decoded.values()} == {"64 x 48 px, expected 96 x 64"}
    decoded = decode([*packets[:10], *(p._replace(picture=p.picture + 10) for p in small.packets)])
    assert shown(decoded, pictures) == list(range(10))


def test_parameters_may_come_in_a_packet_of_their_own():
    packets, pictures = FILMS["h264", 0]
    first = packets[0].data
    slice_at = first.index(b"\0\0\1\x65")
    split = [packets[0]._replace(data=first[:slice_at]), packets[0]._replace(data=first[slice_at:])]
    assert shown(decode([*split, *packets[1:]]), pictures) == list(range(len(pictures)))


def test_after_a_long_pause_nothing_is_shown_until_the_next_key_frame():
    """So many packets may be missing that their numbers come round."""
    packets, pictures = film(count=60)
    left = [*packets[:24], *packets[40 + 5 :]]
    good = shown(decode(left), pictures)
    assert good == [*range(24), *range(50, 60)]


def test_where_the_clock_steps_back_the_old_pictures_come_out_first():
    packets = FILMS["h264", 3].packets
    decoder = VideoDecoder(CAMERA)
    out = []
    for packet in packets[:18]:
        stamp = stamp_of(packet.picture) + 10**10
        out += decoder.add(message(packet), stamp, stamp)
    for packet in packets[18:]:
        out += decoder.add(message(packet), stamp_of(packet.picture), stamp_of(packet.picture))
    out += decoder.flush()
    stamps = [decoded.stamp for decoded in out]
    jump = next(i for i, stamp in enumerate(stamps) if stamp < EPOCH + 10**10)
    assert stamps[:jump] == [stamp_of(i) + 10**10 for i in (*range(17), 18)]
    assert all(decoded.image is not None for decoded in out[:jump])
    assert stamps[jump:] == [stamp_of(i) for i in (17, *range(19, 40))]
    assert [d.stamp for d in out[jump:] if d.image] == [stamp_of(i) for i in range(20, 40)]


def test_empty_packets_are_survived():
    decoder = VideoDecoder(CAMERA)
    for data in (b"", b"\1\2\3", b"\0\0\1", b"\0\0\0\1\x09\xf0", b"\0\0\1\x67", b"\0\0\1\x65"):
        packet = Packet(0, False, data)
        assert all(d.image is None for d in decoder.add(message(packet), EPOCH, EPOCH))
    assert decoder.flush() == []


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(FILMS)),
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 400), st.binary(max_size=8)), max_size=6),
)
def test_no_bytes_make_the_decoder_raise_or_run_away(kind, changes):
    packets = list(FILMS[kind].packets[:15])
    for index, at, patch in changes:
        data = packets[index].data
        packets[index] = packets[index]._replace(data=data[:at] + patch + data[at + len(patch) :])
    for one in decode(packets, kind[0]).values():
        assert (one.image is None) == bool(one.error)


@every_film
@pytest.mark.parametrize("lost", [None, 12])
def test_frames_show_the_newest_picture_of_a_video_not_after_their_time(kind, lost):
    codec = kind[0]
    packets, pictures = FILMS[kind]
    crop = (8, 4, 40, 30)
    robot = only_front(cameras=(replace(CAMERA, encoding=codec, crop=crop),))
    # Received in the order they were sent, whatever picture they hold.
    video = [
        Sample(stamp_of(i) + 200 * MS, "/front", message(packet, codec=codec))
        for i, packet in enumerate(packets)
        if i != lost
    ]
    joints = [s for s in steady(1.4) if s.topic != "/front"]
    items, source = convert(robot, in_order([*joints, *video]))
    there = [i for i in range(len(pictures)) if lost is None or i != packets[lost].picture]
    if lost is not None and kind == ("hevc", 3):
        return  # such a loss does not show
    for frame in frames_of(items):
        index = max(i for i in there if stamp_of(i) <= frame.stamp)
        np.testing.assert_array_equal(frame.pictures["front"], pictures[index][4:34, 8:48])
    if lost is None:
        assert len(frames_of(items)) == len(items) == 42
        assert source.faults()["front"] == {}
    else:
        details = {gap.detail for gap in gaps_of(items) if gap.reason == "corrupt"}
        assert details == {"a packet before it is missing"}
        assert items[-1].stamp > EPOCH + 1300 * MS
