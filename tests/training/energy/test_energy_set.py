# SPDX-License-Identifier: Apache-2.0
"""Items, tables and batches, against loops over the recorded episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from energy_samples import FAILED, LENGTHS, SHARES, opened, source
from evaluation_samples import CONFIG, JOINTS, LOW, make_dataset, make_episodes
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.models.scaling import Scaling
from vla_training.data.errors import DataError
from vla_training.data.loading.frame_columns import Words
from vla_training.data.loading.frame_table import FrameTable
from vla_training.energy.chunk_table import ChunkTable
from vla_training.energy.energy_data import open_energy_sets
from vla_training.energy.energy_set import EnergyItem, collate_energy

SEED = 3  # trains on episodes 0, 2 and 4, validates on 3 and tests on 1
TRAINING, VALIDATION, TEST = (0, 2, 4), (3,), (1,)
CHUNK = CONFIG.chunk
STD = (0.7, 0.2, 0.03)  # of the policy's normalisation


def normalised(actions: np.ndarray) -> np.ndarray:
    return (actions.astype(np.float64) - LOW) / STD


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts")


@pytest.mark.parametrize(
    ("changes", "stride", "failures"),
    [({}, 1, False), ({"stride": 3}, 3, False), ({"failures": True}, 1, True)],
)
def test_items_are_the_frames_whose_whole_chunk_was_recorded(
    sample: Path, cache: Path, changes: dict[str, Any], stride: int, failures: bool
) -> None:
    sets, episodes = opened(sample, cache, SEED, **changes), make_episodes(LENGTHS)
    for part, ours in (("training", TRAINING), ("validation", VALIDATION), ("test", TEST)):
        items = getattr(sets, part)
        expected, start = [], 0
        for number in ours:
            episode = episodes[number]
            for k in range(0, LENGTHS[number] - CHUNK + 1, stride):
                if number != FAILED or failures:
                    chunk = normalised(episode.action[k : k + CHUNK])
                    expected.append((start + k, episode.task, episode.subtasks[k], chunk))
            start += LENGTHS[number]
        assert len(items) == len(expected) > 0
        assert items.rows.tolist() == [row for row, *_ in expected]
        for item, (row, task, subtask, chunk) in zip(items, expected, strict=True):
            assert (item.row, item.task, item.subtask) == (row, task, subtask)
            np.testing.assert_allclose(item.actions, chunk, rtol=0, atol=1e-5)
            assert item.hidden.dtype == torch.bfloat16
            assert item.samples is item.layers is None


def test_the_table_holds_all_frames_of_a_part_and_their_texts(sample: Path, cache: Path) -> None:
    table, episodes = opened(sample, cache, SEED).training.chunks, make_episodes(LENGTHS)
    ours = [episodes[number] for number in TRAINING]
    actions = np.concatenate([normalised(episode.action) for episode in ours])
    np.testing.assert_allclose(table.actions, actions, rtol=0, atol=1e-5)
    np.testing.assert_allclose(table.std, actions.std(axis=0), rtol=1e-5)
    told = [text or one.task for one in ours for text in one.subtasks]
    assert [table.texts[code] for code in table.text] == told
    lengths = [len(episode.action) for episode in ours]
    assert table.episode.tolist() == np.repeat([0, 1, 2], lengths).tolist()
    assert table.end.tolist() == np.repeat(np.cumsum(lengths), lengths).tolist()


def test_several_datasets_make_one_set(sample: Path, cache: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", make_episodes((10, 11, 12)))
    both = opened(sample, cache, SEED, dataset=(sample / "data", other)).training
    first, second = (
        opened(sample, cache, SEED, dataset=(root,)).training for root in (sample / "data", other)
    )
    assert len(both) == len(first) + len(second)
    shift = len(first.chunks.actions)
    assert both.rows.tolist() == [*first.rows, *(second.rows + shift)]
    assert both.chunks.episode.max() == first.chunks.episode.max() + 1 + second.chunks.episode.max()
    for table, rows in ((first.chunks, slice(shift)), (second.chunks, slice(shift, None))):
        texts = [both.chunks.texts[code] for code in both.chunks.text[rows]]
        assert texts == [table.texts[code] for code in table.text]
    assert len(set(both.chunks.texts)) == len(both.chunks.texts)
    for index, item in enumerate(both):
        alone = first[index] if index < len(first) else second[index - len(first)]
        assert torch.equal(item.hidden, alone.hidden)
        assert torch.equal(item.actions, alone.actions)


def test_parts_that_are_not_wanted_are_not_opened(sample: Path, cache: Path) -> None:
    sets = open_energy_sets(source(sample, cache), SEED, SHARES, wanted=("test",))
    assert sets.training is None
    assert sets.validation is None
    assert len(sets.test) == LENGTHS[1] - CHUNK + 1
    without = open_energy_sets(source(sample, cache), SEED, (0.8, 0.0, 0.2))
    assert without.validation is None


def test_the_interface_says_what_an_energy_model_is_for(sample: Path, cache: Path) -> None:
    sets = opened(sample, cache, SEED)
    assert (sets.state_dim, sets.action_dim) == (CONFIG.language.width, len(JOINTS))
    interface = sets.interface
    assert (interface.action_names, interface.fps, interface.chunk) == (JOINTS, 10.0, CHUNK)
    assert (interface.split_seed, interface.shares) == (SEED, SHARES)
    units = sets.test.normalization.action.restore(sets.test.chunks.actions)
    np.testing.assert_allclose(units, make_episodes(LENGTHS)[1].action, rtol=0, atol=1e-6)


def test_a_part_without_a_frame_is_refused(sample: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"no frame of the test episodes \(4,\) .* all 8 actions"):
        opened(sample, cache, 0)
    with pytest.raises(DataError, match=r"validation episodes \(2,\) .* and did not fail"):
        open_energy_sets(source(sample, cache), 1, SHARES, wanted=("validation",))


def frame_table(pieces: list[list[int]]) -> FrameTable:
    """Episodes of pieces without a break; an action is its row's number."""
    lengths = [sum(episode) for episode in pieces]
    count = sum(lengths)
    stops = np.cumsum([piece for episode in pieces for piece in episode])
    sizes = [piece for episode in pieces for piece in episode]
    numbers = np.arange(count, dtype=np.float32)
    words = Words(np.zeros(count, np.int64), ("one",))
    return FrameTable(
        episode=np.repeat(np.arange(len(pieces)), lengths),
        frame=np.concatenate([np.arange(length) for length in lengths]),
        timestamp=numbers,
        end=np.repeat(stops, sizes),
        state=numbers[:, None],
        action=numbers[:, None],
        task=words,
        subtask=Words(words.codes, ("",)),
        labels={},
    )


PIECES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4)


@given(pieces=PIECES, chunk=st.integers(1, 4), data=st.data())
def test_a_chunk_of_the_table_is_what_was_recorded_without_a_break(
    pieces: list[list[int]], chunk: int, data: st.DataObject
) -> None:
    table = frame_table(pieces)
    episodes = data.draw(st.sets(st.integers(0, len(pieces) - 1), min_size=1))
    scaling = Scaling(("a",), "mean_std", (0.0,), (1.0,))
    chunks = ChunkTable.of([table], [sorted(episodes)], scaling, chunk)
    rows = [row for row in range(len(table.frame)) if table.episode[row] in episodes]
    assert chunks.actions[:, 0].tolist() == rows
    for row, original in enumerate(rows):
        follows = [original + k for k in range(chunk) if original + k < table.end[original]]
        assert chunks.whole[row] == (len(follows) == chunk)
        if chunks.whole[row]:
            assert chunks.at([row])[0, :, 0].tolist() == follows
        else:
            with pytest.raises(DataError, match=f"row {row} .* {len(follows)} actions"):
                chunks.at([row])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_batches_pad_on_the_right_and_say_so(lengths: list[int]) -> None:
    def item(row: int, length: int) -> EnergyItem:
        hidden = torch.full((length, 4), float(row + 1), dtype=torch.bfloat16)
        own = torch.full((2, 8, 3), float(row))
        return EnergyItem(hidden, own[0], row, f"task {row}", "", own, None)

    batch = collate_energy([item(*pair) for pair in enumerate(lengths)])
    assert batch.hidden.shape == (len(lengths), max(lengths), 4)
    for row, length in enumerate(lengths):
        assert batch.ignore[row].tolist() == [k >= length for k in range(max(lengths))]
        assert (batch.hidden[row, :length] == row + 1).all()
        assert (batch.hidden[row, length:] == 0).all()
        assert (batch.actions[row] == row).all()
        assert (batch.samples[row] == row).all()
    assert batch.rows.tolist() == list(range(len(lengths)))
    assert batch.tasks == [f"task {row}" for row in range(len(lengths))]
    assert batch.layers is None
    assert len(batch) == len(lengths)
