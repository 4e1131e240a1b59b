# SPDX-License-Identifier: Apache-2.0
import json
import pickle
from io import BytesIO

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from vqa_samples import cauldron, coloured, encoded, write_llava

from vla_training.data.errors import DataError
from vla_training.data.vqa import pictures, questions
from vla_training.data.vqa.cauldron import read_cauldron
from vla_training.data.vqa.llava import read_llava
from vla_training.data.vqa.pictures import decode_picture
from vla_training.data.vqa.sources import read_questions

ENTRIES = [*coloured(5), (None, [("what is two and two", "four")])]


@pytest.fixture(params=["llava", "parquet", "saved"])
def read(request, tmp_path):
    """Reads entries that were written in one of the forms."""

    def made(entries):
        folder = tmp_path / "made"
        folder.mkdir()
        if request.param == "llava":
            return read_questions(*write_llava(folder, entries))
        if request.param == "saved":
            cauldron(entries).save_to_disk(folder, num_shards=2)
        else:
            whole = cauldron(entries)
            for k, rows in enumerate(np.array_split(np.arange(len(entries)), 2)):
                whole.select(rows).to_parquet(folder / f"train-{k:05}-of-00002.parquet")
        return read_questions(folder, None)

    return made


def test_every_question_comes_with_its_own_picture_and_answer(read):
    found = read(ENTRIES)
    expected = [(picture, *turn) for picture, turns in ENTRIES for turn in turns]
    assert len(found) == len(expected) == 11
    for k, (picture, question, answer) in enumerate(expected):
        item = found[k]
        assert (item.question, item.answer) == (question, answer)
        if picture is None:
            assert item.image is None
        else:
            assert item.image.dtype == torch.uint8
            assert torch.equal(item.image, torch.from_numpy(picture).permute(2, 0, 1))


def test_processes_that_load_read_the_same(read):
    found = read(ENTRIES)
    loader = DataLoader(pickle.loads(pickle.dumps(found)), batch_size=None, num_workers=1)
    for item, expected in zip(loader, found, strict=True):
        assert item.question == expected.question
        assert (item.image is None) == (expected.image is None)
        assert item.image is None or torch.equal(item.image, expected.image)


def test_no_picture_is_in_two_parts_of_a_split(read):
    found = read(ENTRIES)

    def asked(part):
        keys = [b"" if i.image is None else i.image.numpy().tobytes() for i in part]
        return [(key, item.question) for key, item in zip(keys, part, strict=True)]

    training, validation = found.split(0, 0.34)
    assert sorted(asked(training) + asked(validation)) == sorted(asked(found))
    about, held = ({key for key, _ in asked(part)} for part in (training, validation))
    assert len(held) == 2
    assert not about & held
    assert asked(found.split(0, 0.34)[1]) == asked(validation)
    others = [asked(found.split(seed, 0.34)[1]) for seed in range(1, 6)]
    assert any(other != asked(validation) for other in others)


def test_one_picture_in_several_entries_is_not_split(tmp_path):
    file, folder = write_llava(tmp_path, coloured(4))
    entries = json.loads(file.read_text())
    file.write_text(
        json.dumps([{**e, "image": entries[k % 2]["image"]} for k, e in enumerate(entries)])
    )
    for seed in range(4):
        training, validation = read_llava(file, folder).split(seed, 0.5)
        assert (len(training), len(validation)) == (4, 4)


def test_a_single_picture_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="questions about 1 picture, expected at least 2"):
        read_llava(*write_llava(tmp_path, coloured(1))).split(0)


def test_a_digest_follows_the_texts(tmp_path):
    digests = set()
    for k, entries in enumerate((ENTRIES, ENTRIES, ENTRIES[::-1])):
        (tmp_path / f"{k}").mkdir()
        digests.add(read_llava(*write_llava(tmp_path / f"{k}", entries)).digest)
    assert len(digests) == 2


def llava(tmp_path, change, pictures=True):
    """Reads conversations of which ``change`` has changed the second entry."""
    file, folder = write_llava(tmp_path, coloured(3))
    entries = json.loads(file.read_text())
    change(entries[1])
    file.write_text(json.dumps(entries))
    return read_llava(file, folder if pictures else None)


def said(text, speaker=0):
    def change(entry):
        entry["conversations"][speaker]["value"] = text

    return change


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "coco/../../x", "link.png"])
def test_paths_never_leave_the_folder(tmp_path, path):
    def change(entry):
        (tmp_path / "secret.png").write_bytes(encoded(coloured(1)[0][0]))
        (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
        entry["image"] = path

    with pytest.raises(DataError, match=r"entry 1: image is .*expected a path that stays in"):
        llava(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda e: e.update(image="coco/none.png"), "entry 1: image is 'coco/none.png', and there"),
        (lambda e: e.update(image=7), "entry 1: image is 7, expected a path"),
        (lambda e: e.update(image="a\0b"), "expected a path"),
        (lambda e: e.update(image="a" * 2000), "expected a path of at most 1024"),
        (lambda e: e.pop("conversations"), "entry 1 is .*expected an object with conversations"),
        (lambda e: e["conversations"].pop(), r"entry 1 has turns of \['human', 'gpt', 'human'\]"),
        (lambda e: e["conversations"].reverse(), "expected human and gpt alternately"),
        (said(None), "entry 1: the question is None, expected a text"),
        (said("<image>\n "), "entry 1: the question is empty"),
        (said(" ", 1), "entry 1: the answer is empty"),
        (said("a" * 20_001, 1), "entry 1: the answer has 20001 characters, expected at most 20000"),
        (said("half \ud83d"), "half of a Unicode character"),
        (lambda e: e.pop("image"), "question has <image>, and the entry has no picture"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, change, error):
    with pytest.raises(DataError, match=error):
        llava(tmp_path, change)


def test_pictures_without_their_folder_are_missed(tmp_path):
    with pytest.raises(DataError, match=r"entry 0: image is .*no folder of pictures is given"):
        llava(tmp_path, lambda _: None, pictures=False)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[{]", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"a": 1}', "holds a dict, expected a list"),
        (b"[]", "has no questions"),
        (b"[7]", "entry 0 is 7"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content, error):
    file = tmp_path / "instruct.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=error):
        read_questions(file, None)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "instruct.json"
    with file.open("wb") as made:
        made.truncate((2 << 30) + 1)
    with pytest.raises(DataError, match="too large"):
        read_questions(file, None)


@pytest.mark.parametrize("name", ["none.json", "none"])
def test_what_is_missing_is_named(tmp_path, name):
    with pytest.raises(DataError, match=f"{name} is no file"):
        read_questions(tmp_path / name, None)


def save(dataset, folder):
    dataset.save_to_disk(folder)
    return folder


def test_several_pictures_in_a_row_are_refused(tmp_path):
    rows = cauldron(coloured(3)).to_dict()
    rows["images"][2] *= 2
    folder = save(datasets.Dataset.from_dict(rows), tmp_path / "saved")
    with pytest.raises(DataError, match="entry 2 has 2 pictures, expected one"):
        read_cauldron(folder)


@pytest.mark.parametrize("path", ["/etc/hostname", "http://localhost:1/a.png", "a.png"])
def test_a_picture_that_lies_elsewhere_is_never_followed(tmp_path, path):
    rows = cauldron(coloured(3)).to_dict()
    rows["images"][1] = [{"bytes": None, "path": path}]
    folder = save(datasets.Dataset.from_dict(rows), tmp_path / "saved")
    with pytest.raises(DataError, match="entry 1 has its picture elsewhere"):
        read_cauldron(folder)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            {"images": [[{"bytes": b"", "path": ""}]]},
            "has the columns images, expected images and texts",
        ),
        ({"images": ["a"], "texts": ["b"]}, "images is string, expected a list"),
        ({"images": [[{"bytes": b"", "path": ""}]], "texts": [["b"]]}, "texts is .*user"),
        (
            {"images": [[{"bytes": b"", "path": ""}]], "texts": [[{"user": 1, "assistant": 2}]]},
            "entry 0: the question is 1, expected a text",
        ),
    ],
)
def test_a_dataset_of_another_form_is_refused(tmp_path, rows, error):
    with pytest.raises(DataError, match=error):
        read_cauldron(save(datasets.Dataset.from_dict(rows), tmp_path / "saved"))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither Parquet files nor a saved dataset"):
        read_questions(tmp_path, None)
    datasets.DatasetDict({"train": cauldron(coloured(2))}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"expected the folder of one split: \['train'\]"):
        read_questions(tmp_path / "splits", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path, None)


def test_a_saved_dataset_names_no_file_outside_and_lacks_none(tmp_path):
    folder = save(cauldron(coloured(2)), tmp_path / "saved")
    state = folder / "state.json"
    text = state.read_text()
    for name in ("../data-00000-of-00001.arrow", "data-00001-of-00002.arrow"):
        state.write_text(text.replace("data-00000-of-00001.arrow", name))
        with pytest.raises(DataError, match="has no such file"):
            read_cauldron(folder)


# --- pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_pictures_of_any_usual_kind_are_read(kind):
    picture = np.full((30, 40, 3), (200, 40, 90), np.uint8)
    found = decode_picture(encoded(picture, kind), "a picture").permute(1, 2, 0).numpy()
    assert found.shape == picture.shape
    np.testing.assert_allclose(found.astype(int), picture.astype(int), atol=8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_become_rgb(mode):
    buffer = BytesIO()
    picture = Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode)
    picture.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    found = decode_picture(buffer.getvalue(), "a picture")
    assert tuple(found.shape) == (3, 6, 8)
    assert found.min() > 250


def test_a_picture_is_turned_as_its_exif_says():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    found = decode_picture(encoded(picture, "JPEG", exif=exif), "a picture")
    assert tuple(found.shape) == (3, 40, 20)
    assert found[:, :15].min() > 240
    assert found[:, 25:].max() < 15


def test_a_large_picture_is_averaged_down():
    picture = np.zeros((64, 2100, 3), np.uint8)
    picture[:, ::2] = 200  # finer than what is left
    found = decode_picture(encoded(picture), "a picture")
    assert tuple(found.shape) == (3, 32, 1050)
    np.testing.assert_allclose(found.numpy().astype(int), 100, atol=1)


def test_an_absurd_picture_is_refused_before_it_is_decoded(monkeypatch):
    """Of a header that promises more than there is; decoding would fail otherwise."""
    content = bytearray(encoded(np.zeros((8, 8, 3), np.uint8), "BMP"))
    content[18:26] = 2 * (8_000).to_bytes(4, "little")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="the picture has 8000 x 8000 pixels"):
        decode_picture(bytes(content), "the picture")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_picture_that_is_cut_off_is_named(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(noise, kind)
    for part in (0, 5, len(content) // 2):
        with pytest.raises(DataError, match="entry 3: the picture"):
            decode_picture(content[:part], "entry 3: the picture")


def test_other_kinds_of_files_are_no_pictures():
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    deep = BytesIO()
    Image.new("I;16", (8, 8)).save(deep, "PNG")
    for content, error in (
        (buffer.getvalue(), "is no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is no picture"),
        (deep.getvalue(), "mode I;16, expected 8 bits"),
    ):
        with pytest.raises(DataError, match=error):
            decode_picture(content, "it")


def test_a_bad_picture_is_named_with_its_entry_when_it_is_read(tmp_path):
    file, folder = write_llava(tmp_path, coloured(3))
    (folder / "coco/0001.png").write_bytes(b"no picture")
    found = read_llava(file, folder)
    assert found[0].image is not None
    with pytest.raises(DataError, match=r"instruct\.json: entry 1: the picture .*0001\.png"):
        found[2]
    (folder / "coco/0001.png").unlink()
    with pytest.raises(
        DataError, match=r"entry 1: the picture is 'coco/0001\.png', and there is no"
    ):
        found[2]


def test_a_file_of_a_picture_is_read_within_bounds(tmp_path, monkeypatch):
    from vla_training.data.vqa import llava as module

    file, folder = write_llava(tmp_path, coloured(3))
    found = read_llava(file, folder)
    monkeypatch.setattr(module, "MAX_BYTES", 20)
    with pytest.raises(DataError, match="too large: expected at most 20 bytes"):
        found[0]


def test_bounds_are_those_that_are_documented():
    assert pictures.MAX_PIXELS * 3 < 200 << 20
    assert questions.MAX_CHARACTERS == 20_000
