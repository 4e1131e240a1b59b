# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest
from bag_files import few_messages, write_mcap
from bag_samples import write_bag

from vla_training.data.bags.bag import BagError, find_bags


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Recordings of several days, and what else lies about."""
    bag = write_bag(tmp_path / "model", few_messages(3))
    (bag / "model.mcap").rename(tmp_path / "model.mcap")
    root = tmp_path / "recordings"
    for name in ("a/take_10", "a/take_2", "a/take_1", "b/take_3", "b/.take_4", "b/take_5.partial"):
        folder = root / name
        folder.mkdir(parents=True)
        os.link(tmp_path / "model.mcap", folder / f"{folder.name}_0.mcap")
        if "take_2" not in name:  # that one was interrupted
            (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    loose = root / "loose"
    loose.mkdir()
    for name in ("run_9.mcap", "run_11.db3", "run_8.bag", ".hidden.mcap", "notes.txt"):
        os.link(tmp_path / "model.mcap", loose / name)
    (root / "readme.md").touch()
    (root / "empty").mkdir()
    return root


TAKES = ["a/take_1", "a/take_2", "a/take_10", "b/take_3"]
LOOSE = ["loose/run_8.bag", "loose/run_9.mcap", "loose/run_11.db3"]


def found(root: Path, *patterns: str | Path) -> list[str]:
    return [str(p.relative_to(root)) for p in find_bags([root / p for p in patterns])]


def test_a_folder_stands_for_the_bags_in_it_in_natural_order(root: Path) -> None:
    assert found(root, "") == [*TAKES, *LOOSE]
    assert found(root, "a") == TAKES[:3]
    assert found(root, "a/take_2") == ["a/take_2"]
    assert found(root, "loose") == LOOSE


def test_patterns_are_expanded(root: Path) -> None:
    assert found(root, "*") == [*TAKES, *LOOSE]
    assert found(root, "?/take_1*") == ["a/take_1", "a/take_10"]
    assert found(root, "loose/*.mcap") == ["loose/run_9.mcap"]
    assert found(root, "**/*.mcap") == [*TAKES, "loose/run_9.mcap"]
    assert found(root, "**") == [*TAKES, *LOOSE]


def test_each_bag_is_found_once_and_in_the_order_asked_for(root: Path) -> None:
    assert found(root, "b", "a/take_2", "a", "b/take_3") == ["b/take_3", "a/take_2", *TAKES[0:3:2]]


def test_text_and_home_are_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.chdir(root)
    assert find_bags(["~/a/*"]) == [root / take for take in TAKES[:3]]
    assert find_bags(["b"]) == [Path("b/take_3")]
    monkeypatch.chdir(root / "a" / "take_2")
    assert find_bags(["."]) == [Path()]


def test_what_is_named_is_taken_even_where_a_search_would_leave_it_out(root: Path) -> None:
    assert found(root, "b/take_5.partial", "loose/notes.txt") == [
        "b/take_5.partial",
        "loose/notes.txt",
    ]


def test_a_name_with_the_characters_of_a_pattern_is_a_name_first(root: Path) -> None:
    odd = root / "take[1]"
    odd.mkdir()
    write_mcap(odd / "take[1]_0.mcap", [few_messages(3)])
    assert found(root, "take[1]") == ["take[1]"]


def test_links_are_followed_once(root: Path, tmp_path: Path) -> None:
    (root / "a" / "circle").symlink_to(root)
    (root / "chosen").mkdir()
    (root / "chosen" / "first").symlink_to(root / "a" / "take_1")
    assert found(root, "") == [*TAKES[:3], "b/take_3", *LOOSE]
    assert found(root, "chosen") == ["chosen/first"]
    (tmp_path / "elsewhere").symlink_to(root / "b")
    assert find_bags([tmp_path / "elsewhere"]) == [tmp_path / "elsewhere" / "take_3"]


@pytest.mark.parametrize("pattern", ["nothing", "nothing*", "empty", "readme*", "a/take_1/meta*"])
def test_a_pattern_without_a_bag_is_an_error_that_names_it(root: Path, pattern: str) -> None:
    with pytest.raises(BagError, match="no bag found; expected a rosbag2 folder") as caught:
        find_bags([root / "a", root / pattern])
    assert pattern in str(caught.value)
