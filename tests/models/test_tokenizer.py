# SPDX-License-Identifier: Apache-2.0
import json
import os
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_samples import TEXTS, paligemma_like, save
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vla_nodes.models import tokenizer as module
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.padding import pad
from vla_nodes.models.tokenizer import Tokenizer

ODD = ["Tür öffnen 开门 🤖", "", " ", "a\tb\r\n\n c", "<loc0001>", "12 255;\nAction: "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """As transformers saves it."""
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=paligemma_like(), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("text", [*TEXTS, *ODD])
def test_tokens_are_those_of_transformers(folder: Path, text: str):
    ours, theirs = Tokenizer.read(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert [ours.bos_id, *ours.encode(text)] == theirs.encode(text)
    assert ours.decode(theirs.encode(text)) == text
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )


def test_transformers_reads_what_was_written(folder: Path, tmp_path: Path):
    ours = Tokenizer.read(folder)
    ours.write(tmp_path / "new")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "new")
    again = Tokenizer.read(tmp_path / "new")
    for text in [*TEXTS, *ODD]:
        assert theirs.encode(text) == [ours.bos_id, *ours.encode(text)]
        assert again.encode(text) == ours.encode(text)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert len(theirs) == ours.size == again.size
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_usual_names_do_where_no_file_says_others(tmp_path: Path):
    ours = Tokenizer.read(save(paligemma_like(), tmp_path))
    assert (ours.pad_id, ours.eos_id, ours.bos_id) == (0, 1, 2)
    assert ours.size == paligemma_like().get_vocab_size()


@pytest.mark.parametrize("token", ["<0x03>", {"content": "<0x03>", "lstrip": False}])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_files_beside_it_name_the_special_tokens(tmp_path: Path, file: str, token):
    save(paligemma_like(), tmp_path)
    (tmp_path / file).write_text(json.dumps({"eos_token": token, "pad_token": None}))
    ours = Tokenizer.read(tmp_path)
    assert ours.eos_id == paligemma_like().token_to_id("<0x03>")
    assert (ours.pad_id, ours.bos_id) == (0, 2)


def test_padding_and_cutting_that_were_saved_are_off(tmp_path: Path):
    saved = paligemma_like()
    saved.enable_padding(length=100)
    saved.enable_truncation(4)
    assert Tokenizer.read(save(saved, tmp_path)).encode(TEXTS[0]) == (
        paligemma_like().encode(TEXTS[0], add_special_tokens=False).ids
    )


@settings(deadline=None)
@given(st.text(max_size=80))
def test_every_text_comes_back(text: str):
    ours = Tokenizer(paligemma_like())
    # What is ▁ in a text becomes a space, here as in PaliGemma.
    assert ours.decode(ours.encode(text)) == text.replace("▁", " ")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<eos>", "<bos>", "<pad>", "cube", " ", "<"]), max_size=6))
def test_no_text_makes_special_tokens(parts: list[str]):
    ours = Tokenizer(paligemma_like())
    tokens = ours.encode("".join(parts))
    assert not {ours.bos_id, ours.eos_id, ours.pad_id} & set(tokens)
    assert ours.decode(tokens) == "".join(parts)


@pytest.mark.parametrize("added", [False, True])
def test_special_tokens_that_were_saved_as_common_ones_are_special(added: bool):
    tokens = ["<pad>", "<eos>", "<bos>", *sorted(set("<>beosad p"))]
    saved = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: place for place, token in enumerate(tokens)}, [])
    )
    if added:
        saved.add_tokens(tokens[:3])
    ours = Tokenizer(saved)
    assert ours.size == len(tokens)
    assert min(ours.encode("<bos>a<eos>")) > 2
    assert ours.decode([ours.bos_id, ours.encode("a")[0], ours.eos_id, ours.pad_id]) == "a"


def test_decoding_drops_what_is_no_text_and_is_bounded():
    ours = Tokenizer(paligemma_like())
    cube = ours.encode("red cube")
    ids = [ours.bos_id, *cube, -1, ours.size, 10**9, ours.eos_id, ours.pad_id]
    assert ours.decode(ids) == "red cube"
    assert len(ours.decode(cube * 10_000)) == 20_000


def test_a_text_of_absurd_length_is_refused():
    with pytest.raises(ValueError, match="30000 characters, expected at most 20000"):
        Tokenizer(paligemma_like()).encode("a" * 30_000)


def test_a_text_that_cannot_be_tokenised_is_refused():
    with pytest.raises(ValueError, match=r"text '\\ud800' cannot be tokenised"):
        Tokenizer(paligemma_like()).encode("\ud800")
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "cube": 3}
    ours = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>")))
    assert ours.encode("cube") == [3]
    with pytest.raises(ValueError, match="text 'tray' cannot be tokenised"):
        ours.encode("tray")


def test_rows_are_padded_on_the_right():
    tokens, mask = pad([[5, 6], [], [7, 8, 9]], pad_id=3)
    assert tokens.tolist() == [[5, 6, 3], [3, 3, 3], [7, 8, 9]]
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert tokens.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert pad([[]], 0)[0].shape == (1, 0)


def test_a_folder_without_a_tokenizer_says_where_to_get_one(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing; .*paligemma.*vla-fit"):
        Tokenizer.read(tmp_path)


def test_a_sentencepiece_model_alone_is_named(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json is missing, and SentencePiece.*copy"
    ):
        Tokenizer.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Pickle"}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json (is no tokenizer|cannot be read)"):
        Tokenizer.read(tmp_path)


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LARGEST", 1000)
    with pytest.raises(CheckpointError, match="too large: expected at most 1000 bytes"):
        Tokenizer.read(save(paligemma_like(), tmp_path))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"eos_token": "</s>"}, r"no token '</s>'; name its eos token in tokenizer_config"),
        ({"eos_token": 7}, r"eos_token is 7, expected a text"),
        (["eos_token"], r"holds a list, expected an object"),
    ],
)
def test_special_tokens_that_cannot_be_are_named(tmp_path: Path, content, fault: str):
    save(paligemma_like(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=fault):
        Tokenizer.read(tmp_path)


def test_a_pipe_in_place_of_special_tokens_is_not_waited_for(tmp_path: Path):
    save(paligemma_like(), tmp_path)
    os.mkfifo(tmp_path / "tokenizer_config.json")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is no regular file"):
        Tokenizer.read(tmp_path)


def test_a_tokenizer_without_the_usual_names_is_refused(tmp_path: Path):
    bare = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    with pytest.raises(CheckpointError, match=r"no token '<bos>'; name its bos token"):
        Tokenizer.read(save(bare, tmp_path))


def test_code_beside_a_tokenizer_is_never_run(folder: Path, tmp_path: Path):
    save(paligemma_like(), tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "tokenization_custom.py").write_text(f"open({str(ran)!r}, 'w')")
    config = {"auto_map": {"AutoTokenizer": ["tokenization_custom.Custom", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.read(tmp_path).encode(TEXTS[0]) == Tokenizer.read(folder).encode(TEXTS[0])
    assert not ran.exists()
