# SPDX-License-Identifier: Apache-2.0
import os
import pickle
import time
from pathlib import Path

import pytest

from vla_nodes.contract import ContractError, load_contract

EXAMPLE = Path(__file__).parents[2] / "config/contracts/sim_arm.yaml"


def refusal(tmp_path: Path, text: str | bytes) -> ContractError:
    file = tmp_path / "robot.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ContractError) as caught:
        load_contract(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    return caught.value


HOSTILE = {
    "empty": ("", "an empty file"),
    "only a comment": ("# nothing\n", "an empty file"),
    "a list": ("- a\n", "a list of 1"),
    "plain text": ("robot", "'robot'"),
    "two documents": ("a: 1\n---\nb: 1\n", "expected a single document"),
    "an unclosed bracket": ("robot: [a\n", "invalid YAML"),
    "a tab": ("robot:\n\tx: 1\n", "invalid YAML"),
    "a control character": ("robot: \x00", "invalid YAML"),
    "a huge escape": (r'robot: "\UFFFFFFFF"', "invalid YAML"),
    "an unknown alias": ("robot: *a\n", "undefined alias"),
    "not UTF-8": (b"robot: \xff\xfe", "byte 0xff, which is not UTF-8"),
    "UTF-16": ("robot: a".encode("utf-16"), "not UTF-8"),
    "a Python object": ("robot: !!python/object/apply:os.system [ls]", "python/object/apply"),
    "a date": ("robot: 2020-01-01", "timestamp"),
    "an impossible date": ("robot: 2020-99-99", "timestamp"),
    "a set": ("robot: !!set {a}", "a value of type 'set'"),
    "a number that is none": ("fps: !!int abc", "'abc'"),
    "an empty integer": ('fps: !!int ""', "''"),
    "a truth that is none": ("fps: !!bool maybe", "'maybe'"),
    "an integer of 5000 digits": ("fps: " + "9" * 5000, "found '999"),
    "an integer of 4e6 bits": ("fps: 0x" + "f" * 1_000_000, "bits"),
    "a number as a key": ("1: a", "the key '1'"),
    "yes as a key": ("yes: a", "the key 'yes'"),
    "a list as a key": ("? [a, b]\n: c", "the key a list of 2"),
    "a merge key": ("a: &a {b: 1}\nc:\n  <<: *a\n", "the key '<<'"),
    "endless nesting": ("[" * 100_000, "nesting without end"),
    "deep nesting": ("a: " + "[" * 20 + "]" * 20, "more than 16 levels"),
    "an alias of itself": ("a: &a [*a]\n", "more than 16 levels"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_no_contract_is_refused(tmp_path, case):
    text, words = HOSTILE[case]
    assert words in str(refusal(tmp_path, text))


def test_aliases_may_not_unfold_without_bound(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.process_time()
    assert "more than 20000 values" in str(refusal(tmp_path, "\n".join(lines)))
    assert time.process_time() - began < 10


def test_a_few_aliases_are_welcome(tmp_path):
    text = EXAMPLE.read_text().replace("joints: [", "joints: &joints [", 1)
    before, after = text.rsplit("joints: [", 1)
    file = tmp_path / "robot.yaml"
    file.write_text(before + "joints: *joints" + after.split("]", 1)[1])
    assert load_contract(file) == load_contract(EXAMPLE)


def test_a_duplicate_key_is_refused_with_both_lines(tmp_path):
    error = refusal(tmp_path, "robot: a\nfps: 1\nrobot: b\n")
    assert error.line == 3
    assert "the key 'robot' again, first on line 1" in str(error)


def test_an_error_carries_the_line_of_its_value(tmp_path):
    text = EXAMPLE.read_text().replace("width: 96", "width: wide", 1)
    line = 1 + text[: text.index("width: wide")].count("\n")
    error = refusal(tmp_path, text)
    assert (error.line, error.key) == (line, "cameras.front.width")
    assert str(error).startswith(f"{error.file}:{line}: cameras.front.width: found 'wide'; write")


def test_an_error_about_a_section_carries_the_line_of_its_key(tmp_path):
    error = refusal(tmp_path, EXAMPLE.read_text().replace("  wrist:\n", "  3rd view:\n"))
    line = EXAMPLE.read_text().splitlines().index("  wrist:") + 1
    assert (error.line, error.key) == (line, "cameras.3rd view")


def test_odd_keys_stay_on_one_line(tmp_path):
    assert r"'a\nb'" in str(refusal(tmp_path, '"a\\nb": 1'))
    assert len(str(refusal(tmp_path, f"? {'k' * 5000}\n: 1"))) < 400


def test_a_file_over_one_mebibyte_is_refused_unread(tmp_path):
    assert "more than 1048576 bytes" in str(refusal(tmp_path, b"#" * ((1 << 20) + 1)))


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("none.yaml", "pipe", "loop", "a\0b", ".", "n" * 5000):
        with pytest.raises(ContractError):
            load_contract(tmp_path / path)


def test_a_path_may_be_text():
    assert load_contract(str(EXAMPLE)) == load_contract(EXAMPLE)


def test_an_error_survives_the_way_between_processes(tmp_path):
    error = refusal(tmp_path, "robot: 5")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
