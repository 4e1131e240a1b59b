# SPDX-License-Identifier: Apache-2.0
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from transformers import AutoTokenizer

from vla_nodes.models.prompts import actor_prompt, planner_prompt
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.data.errors import DataError
from vla_training.tokens.fit_tokenizer import fit_tokenizer, main, read_texts

TASKS = {"put the red cube into the tray", "stack the cups", "Tür öffnen 开门"}
SUBTASKS = {"reach the red cube", "grasp the red cube", "place 2 cubes into the tray"}
LEAST = 256 + 3 + 4  # bytes, special tokens, marks


@pytest.fixture(scope="module")
def fitted() -> Tokenizer:
    return fit_tokenizer(TASKS, SUBTASKS, 1024)


def make_dataset(root: Path, tasks: list[str], subtasks: list[str] | None) -> Path:
    """One episode of three frames per task; the subtasks follow each other frame by frame."""
    features = {
        name: {"dtype": "float32", "shape": (2,), "names": ["pan", "lift"]}
        for name in ("observation.state", "action")
    }
    if subtasks is not None:
        features["subtask"] = {"dtype": "string", "shape": (1,), "names": None}
    dataset = LeRobotDataset.create("local/texts", 10, features, root=root, use_videos=False)
    for episode, task in enumerate(tasks):
        for frame in range(3):
            values = {"observation.state": np.zeros(2, np.float32), "task": task}
            values["action"] = np.zeros(2, np.float32)
            if subtasks is not None:
                values["subtask"] = subtasks[(3 * episode + frame) % len(subtasks)]
            dataset.add_frame(values)
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("texts") / "dataset"
    return make_dataset(root, sorted(TASKS), ["", *sorted(SUBTASKS)])


def test_every_number_of_a_state_is_one_token(fitted: Tokenizer):
    tokens = [fitted.encode(f" {n}") for n in range(256)]
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == 256
    prompt = planner_prompt("stack the cups", range(256))
    assert Counter(fitted.encode(prompt)) > Counter(ids[0] for ids in tokens)


def test_numbers_within_words_do_not_break_those_of_a_state():
    odd = fit_tokenizer({"box12 x255 y128 z34", "a23 b99 c00 d10"}, {"55 56 1234"}, 1024)
    assert all(len(odd.encode(f" {n}")) == 1 for n in range(256))


@pytest.mark.parametrize("room", [0, 1, 100, 255])
def test_the_least_numbers_are_tokens_where_there_is_no_room_for_all(room: int):
    small = fit_tokenizer(TASKS, SUBTASKS, LEAST + room)
    whole = [n for n in range(256) if len(small.encode(f" {n}")) == 1]
    assert whole == list(range(room))
    assert small.size == LEAST + room


def test_every_word_is_one_token_where_a_text_begins_and_behind_a_space(fitted: Tokenizer):
    for text in TASKS | SUBTASKS:
        assert all(len(fitted.encode(f" {word}")) == 1 for word in text.split())
    for text in SUBTASKS:
        assert len(fitted.encode(text)) == len(text.split())


def test_frequent_words_come_before_rare_ones():
    often = {f"grasp the cube {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"}
    rare = {"jumping quixotic wizards vex"}
    small = fit_tokenizer(often, rare, LEAST + 256 + 20)
    assert [len(small.encode(word)) for word in (" grasp", " the", " cube")] == [1, 1, 1]
    assert all(len(small.encode(f" {word}")) > 1 for text in rare for word in text.split())


@pytest.mark.parametrize("vocabulary", [LEAST, 300, 520, 600, 1024])
def test_the_vocabulary_is_never_exceeded(vocabulary: int):
    assert fit_tokenizer(TASKS, SUBTASKS, vocabulary).size <= vocabulary


def test_prompts_and_subtasks_are_short(fitted: Tokenizer):
    # Task : stack the cups , State : 0 255 ; and the mark
    assert len(fitted.encode(planner_prompt("stack the cups", [0, 255]))) == 12
    assert len(fitted.encode(actor_prompt("stack the cups", [0, 255], True))) == 13


PROMPTS = st.builds(
    lambda form, text, bins: form(text, bins),
    st.sampled_from(
        [
            planner_prompt,
            actor_prompt,
            lambda text, bins: actor_prompt(text, bins, True),
            lambda text, bins: actor_prompt(text, bins, False),
        ]
    ),
    st.sampled_from(sorted(TASKS)) | st.text(max_size=20),
    st.lists(st.integers(0, 255), min_size=1, max_size=8),
)
FOLLOWING = st.sampled_from([*sorted(SUBTASKS), " 12", "\n", "  "]) | st.text(max_size=20)


@settings(deadline=None)
@given(PROMPTS, FOLLOWING)
def test_the_tokens_of_a_prompt_do_not_depend_on_what_follows(
    fitted: Tokenizer, prompt: str, following: str
):
    alone = fitted.encode(prompt)
    assert fitted.encode(prompt + following) == alone + fitted.encode(following)


@settings(deadline=None)
@given(PROMPTS, FOLLOWING)
def test_a_prompt_and_its_target_decode_to_both(fitted: Tokenizer, prompt: str, following: str):
    ids = [fitted.bos_id, *fitted.encode(prompt), *fitted.encode(following), fitted.eos_id]
    assert fitted.decode(ids) == prompt + following


def test_the_texts_of_a_dataset_are_read(dataset: Path):
    assert read_texts(dataset) == (TASKS, SUBTASKS)


def test_a_dataset_without_subtasks_is_read(tmp_path: Path):
    assert read_texts(make_dataset(tmp_path / "plain", ["stack"], None)) == ({"stack"}, set())


def test_a_folder_is_written_that_transformers_reads(dataset: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "tokenizer"
    assert main([str(dataset), "--out", str(out), "--vocabulary", "1024"]) == 0
    report = capsys.readouterr().out
    assert f"{out}: " in report
    assert "of 3 tasks and 3 subtasks" in report
    assert "256 of 256 numbers of a state" in report
    ours, theirs = Tokenizer.read(out), AutoTokenizer.from_pretrained(out)
    for text in (planner_prompt("stack the cups", [0, 99, 255]), "grasp the red cube", "开"):
        assert theirs.encode(text) == [ours.bos_id, *ours.encode(text)]
        assert theirs.decode(theirs.encode(text), skip_special_tokens=True) == text
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer"]


def test_the_same_datasets_give_the_same_files(dataset: Path, tmp_path: Path):
    other = make_dataset(tmp_path / "other", ["wipe the table", "stack the cups"], ["wipe", "lift"])
    for name, order in (("a", (dataset, other)), ("b", (other, dataset))):
        assert main([*map(str, order), "--out", str(tmp_path / name)]) == 0
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert len(Tokenizer.read(tmp_path / "a").encode(" wipe table")) == 2


def many_ties() -> set[str]:
    """Texts in which many pairs of letters are equally frequent."""
    rng = random.Random(0)
    return {" ".join("".join(rng.choices("abcd", k=4)) for _ in range(6)) for _ in range(300)}


def test_threads_and_hashes_change_nothing(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from vla_training.tokens.fit_tokenizer import fit_tokenizer
texts = set(sys.argv[2:])
fit_tokenizer(texts, texts, 900).write(Path(sys.argv[1]))
"""
    one = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code, tmp_path / "alone", *many_ties()]
    subprocess.run(command, env=os.environ | one, check=True)
    alone = (tmp_path / "alone" / "tokenizer.json").read_bytes()
    for name in ("once", "again"):
        fit_tokenizer(many_ties(), many_ties(), 900).write(tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").read_bytes() == alone


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(DataError, match=f"vocabulary is 262, expected at least {LEAST}"):
        fit_tokenizer(TASKS, SUBTASKS, 262)


def test_what_cannot_be_done_is_one_line(dataset: Path, tmp_path: Path, capsys):
    for arguments, fault in (
        ([tmp_path / "none"], "no LeRobot dataset: it has no meta/info.json"),
        ([dataset, "--vocabulary", "10"], "vocabulary is 10, expected at least"),
        ([], "no dataset is given"),
    ):
        assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("vla-fit-tokenizer: ")
        assert fault in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    assert main([str(dataset), "--out", str(tmp_path / "out")]) == 1
    assert "out exists already; give another folder" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(dataset: Path, tmp_path: Path, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(dataset), "--out", str(tmp_path / "out")]) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
