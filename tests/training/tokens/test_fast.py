# SPDX-License-Identifier: Apache-2.0
"""FAST tokens against a DCT written out as a matrix, and against another implementation."""

import json
import os
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from vla_training.data.errors import DataError
from vla_training.tokens.fast import FastError, FastTokenizer, rounded_coefficients

CHUNK, DIMS, SCALE = 12, 3, 10.0


def smooth_chunks(count=200, chunk=CHUNK, dims=DIMS, seed=0):
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, chunk)[None, :, None]
    start, speed, bend = rng.uniform(-0.6, 0.6, (3, count, 1, dims))
    return start + speed * time + bend * np.sin(5 * time) / 3


def dct_matrix(size):
    """Rows are the orthonormal cosines of the DCT-II, by their definition."""
    k, t = np.mgrid[:size, :size]
    matrix = np.cos(np.pi * (2 * t + 1) * k / (2 * size)) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return matrix


@pytest.fixture(scope="module")
def fitted():
    return FastTokenizer.fit(smooth_chunks(), vocabulary=300, scale=SCALE)


@pytest.mark.parametrize("chunk", [1, 2, 12, 50])
def test_coefficients_are_those_of_the_cosines_written_out(chunk):
    chunks = np.random.default_rng(1).normal(size=(5, chunk, DIMS))
    by_hand = np.rint(7.3 * np.einsum("kt,nta->nka", dct_matrix(chunk), chunks))
    np.testing.assert_array_equal(rounded_coefficients(chunks, 7.3), by_hand)


@pytest.mark.parametrize(
    ("chunk", "dims", "scale"), [(1, 1, 10.0), (12, 3, 10.0), (16, 6, 40.0), (50, 7, 3.0)]
)
def test_a_round_trip_loses_no_more_than_the_rounding(chunk, dims, scale):
    chunks = np.random.default_rng(2).uniform(-1, 1, (60, chunk, dims))
    tokenizer = FastTokenizer.fit(chunks, 400, scale)
    matrix = dct_matrix(chunk)
    for original in chunks:
        lost = tokenizer.decode(tokenizer.encode(original)) - original
        assert np.abs(matrix @ lost).max() <= 0.5 / scale + 1e-9
        assert np.linalg.norm(lost, axis=0).max() <= 0.5 / scale * np.sqrt(chunk) + 1e-9


def test_a_round_trip_equals_rounding_with_the_matrix(fitted):
    matrix = dct_matrix(CHUNK)
    for chunk in smooth_chunks()[:20]:
        by_hand = matrix.T @ (np.rint(SCALE * (matrix @ chunk)) / SCALE)
        np.testing.assert_allclose(fitted.decode(fitted.encode(chunk)), by_hand, atol=1e-12)


def test_without_merges_tokens_are_the_coefficients_low_frequencies_first():
    chunks = smooth_chunks(5)
    coefficients = np.rint(SCALE * np.einsum("kt,nta->nka", dct_matrix(CHUNK), chunks)).astype(int)
    low, high = coefficients.min(), coefficients.max()
    tokenizer = FastTokenizer.fit(chunks, vocabulary=high - low + 1, scale=SCALE)
    assert tokenizer.size == high - low + 1
    for chunk, expected in zip(chunks, coefficients, strict=True):
        in_order = [expected[k, a] - low for k in range(CHUNK) for a in range(DIMS)]
        assert tokenizer.encode(chunk) == in_order


def test_the_first_merge_is_the_most_frequent_pair(fitted, tmp_path):
    matrix, pairs = dct_matrix(CHUNK), Counter()
    for chunk in smooth_chunks():
        row = np.rint(SCALE * (matrix @ chunk)).astype(int).ravel().tolist()
        pairs.update(pairwise(row))
    fitted.write(tmp_path / "fast")
    first = json.loads((tmp_path / "fast/tokenizer.json").read_text())["model"]["merges"][0]
    minimum = json.loads((tmp_path / "fast/fast.json").read_text())["minimum"]
    merged = tuple(ord(character) - 0xF0000 + minimum for character in first)
    assert pairs[merged] == max(pairs.values())


def test_a_chunk_seen_often_becomes_one_token():
    chunk = smooth_chunks(1)
    tokenizer = FastTokenizer.fit(np.repeat(chunk, 20, axis=0), vocabulary=1000)
    assert len(tokenizer.encode(chunk[0])) == 1


def test_smooth_chunks_take_fewer_tokens_than_numbers(fitted):
    lengths = [len(fitted.encode(chunk)) for chunk in smooth_chunks(seed=5)]
    assert np.mean(lengths) < CHUNK * DIMS / 2


@pytest.mark.slow  # LeRobot's policies take long to import
@pytest.mark.timeout(300)
def test_chunks_come_back_as_another_implementation_brings_them_back():
    from lerobot.policies.molmoact2.molmoact2_hf_model import action_tokenizer

    chunks = smooth_chunks(100)
    other = action_tokenizer.UniversalActionProcessor.fit(
        list(chunks), scale=SCALE, vocab_size=300, time_horizon=CHUNK, action_dim=DIMS
    )
    ours = FastTokenizer.fit(chunks, 300, SCALE)
    assert ours.settings.minimum == other.min_token
    theirs = other.decode(other(chunks))
    for chunk, expected in zip(chunks, theirs, strict=True):
        np.testing.assert_allclose(ours.decode(ours.encode(chunk)), expected, atol=1e-12)


def test_a_coefficient_out_of_the_range_becomes_the_nearest_in_it(fitted):
    matrix, settings = dct_matrix(CHUNK), fitted.settings
    chunk = smooth_chunks(1)[0]
    chunk[:, 0] += 40.0
    chunk[:, 1] -= 40.0
    expected = np.rint(SCALE * (matrix @ chunk)).clip(settings.minimum, settings.maximum)
    decoded = np.rint(SCALE * (matrix @ fitted.decode(fitted.encode(chunk))))
    np.testing.assert_array_equal(decoded, expected)
    assert decoded[0, 0] == settings.maximum
    assert decoded[0, 1] == settings.minimum


def test_the_share_of_clamped_coefficients_is_counted(fitted):
    chunks = smooth_chunks()[:10]
    assert fitted.clamped(chunks) == 0.0
    chunks[:3, :, 1] += 40.0  # a constant is in the first coefficient alone
    assert fitted.clamped(chunks) == pytest.approx(3 / chunks.size)


def test_the_same_chunks_give_the_same_files(tmp_path):
    for name in ("one", "two"):
        FastTokenizer.fit(smooth_chunks(), 300, SCALE).write(tmp_path / name)
    for file in ("tokenizer.json", "fast.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_is_read_encodes_and_decodes_as_what_was_written(fitted, tmp_path):
    fitted.write(tmp_path / "new" / "fast")
    again = FastTokenizer.read(tmp_path / "new" / "fast")
    assert sorted(p.name for p in (tmp_path / "new").rglob("*.*")) == [
        "fast.json",
        "tokenizer.json",
    ]
    assert again.settings == fitted.settings
    for chunk in smooth_chunks(20, seed=3):
        tokens = fitted.encode(chunk)
        assert again.encode(chunk) == tokens
        np.testing.assert_array_equal(again.decode(tokens), fitted.decode(tokens))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tokens, size: [*tokens, size], "none of the"),
        (lambda tokens, _: [-1, *tokens], "token -1 is none"),
        (lambda tokens, _: tokens[:-1], "coefficients, expected 12 x 3"),
        (lambda tokens, _: [*tokens, 0], "37 coefficients, expected 12 x 3"),
        (lambda *_: [], "0 coefficients"),
    ],
)
def test_tokens_that_are_no_chunk_are_refused(fitted, change, text):
    tokens = fitted.encode(smooth_chunks(1)[0])
    with pytest.raises(FastError, match=text):
        fitted.decode(change(tokens, fitted.size))


@pytest.mark.parametrize(
    ("chunks", "vocabulary", "scale", "text"),
    [
        (np.zeros((0, 4, 2)), 100, 10.0, "shape"),
        (np.zeros((4, 2)), 100, 10.0, "shape"),
        (np.full((1, 4, 2), np.nan), 100, 10.0, "not finite"),
        (np.zeros((1, 4, 2)), 100, 0.0, "scale is 0.0"),
        (np.zeros((1, 4, 2)), 100, np.nan, "scale is nan"),
        (np.array([[[0.0, -20.0]], [[1.0, 3.0]]]), 200, 10.0, "from -200 to 30, .* element 1"),
        (np.array([[[0.0, 1e300]]]), 100, 10.0, "100 tokens are too few"),
        (np.array([[[0.0, 1e300]]]), 10**6, 10.0, "65534 tokens are too few"),
    ],
)
def test_chunks_that_cannot_be_fitted_are_refused(chunks, vocabulary, scale, text):
    with pytest.raises(FastError, match=text):
        FastTokenizer.fit(chunks, vocabulary, scale)


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (np.zeros((CHUNK, DIMS + 1)), r"\(12, 4\), expected \(12, 3\)"),
        (np.zeros((1, CHUNK, DIMS)), "expected"),
        (np.full((CHUNK, DIMS), np.inf), "not finite"),
    ],
)
def test_a_chunk_that_cannot_be_encoded_is_refused(fitted, chunk, text):
    with pytest.raises(FastError, match=text):
        fitted.encode(chunk)


def test_tens_of_thousands_of_coefficients_are_read_back(tmp_path):
    chunks = np.random.default_rng(0).uniform(-3, 3, (20, 8, 3))
    wide = FastTokenizer.fit(chunks, 65_000, scale=5000)
    assert wide.size > 40_000
    wide.write(tmp_path / "fast")
    assert FastTokenizer.read(tmp_path / "fast").encode(chunks[0]) == wide.encode(chunks[0])


def test_a_folder_that_is_there_is_not_overwritten(fitted, tmp_path):
    with pytest.raises(FastError, match="exists already"):
        fitted.write(tmp_path)


def test_a_full_disk_leaves_nothing_behind(fitted, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.write(tmp_path / "fast")
    assert list(tmp_path.iterdir()) == []


def setting(**changes):
    def change(folder):
        path = folder / "fast.json"
        found = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))

    return change


def bpe(edit):
    def change(folder):
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "fast.json").unlink(), "has no fast.json"),
        (lambda folder: (folder / "fast.json").write_text("[1]"), "fast.json"),
        (setting(scale=None), "expected chunk, dims, scale, minimum, maximum"),
        (setting(extra=1), "expected chunk, dims, scale, minimum, maximum"),
        (setting(chunk="12"), "chunk 12, expected a number"),
        (setting(dims=True), "dims True, expected a number"),
        (setting(chunk=0), "above 0"),
        (setting(scale=float("nan")), "above 0"),
        (setting(minimum=10**9), "fast.json"),
        (setting(maximum=10**9), "fast.json"),
        (setting(minimum=-1000), "other tokens"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read"),
        (bpe(lambda c: c.update(normalizer={"type": "Lowercase"})), "something else"),
        (bpe(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})), "something else"),
        (bpe(lambda c: c["model"].update(dropout=0.5)), "something else"),
        (bpe(lambda c: c["model"].update(end_of_word_suffix="x")), "something else"),
        (bpe(lambda c: c["model"]["vocab"].update(a=len(c["model"]["vocab"]))), "other tokens"),
        (
            bpe(
                lambda c: c.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": ""})
            ),
            "something else",
        ),
    ],
)
def test_damaged_files_are_refused_by_name(fitted, tmp_path, damage, text):
    fitted.write(tmp_path / "fast")
    damage(tmp_path / "fast")
    with pytest.raises(DataError, match=text) as caught:
        FastTokenizer.read(tmp_path / "fast")
    assert "fast" in str(caught.value)
    assert "\n" not in str(caught.value)
