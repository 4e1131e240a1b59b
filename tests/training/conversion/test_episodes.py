# SPDX-License-Identifier: Apache-2.0
"""Where episodes begin and end, and what they are about."""

import json

import pytest
from bag_samples import EPOCH, SECOND, STORE, Message, header, sample_contract, write_bag
from convert_samples import TASK, at, jobs_of, joints, level, merged, spans
from rosbags.rosbag2 import StoragePlugin, Writer

from vla_training.data.bags.bag import open_bag
from vla_training.data.conversion.episodes import parse_split
from vla_training.data.conversion.texts import Texts, check_text
from vla_training.data.errors import DataError
from vla_training.data.schema import Outcome


@pytest.fixture
def bag(tmp_path):
    """Writes joints of three seconds and what a test adds."""

    def write(*more, custom=TASK, seconds=3.0, name="bag"):
        return write_bag(tmp_path / name, merged(joints(seconds), more), custom=custom)

    return write


def test_a_bag_is_an_episode_by_default(bag):
    [job], notes = jobs_of(bag())
    assert (job.start, job.stop) == (None, None)
    assert (job.task, job.outcome) == ("stack the cups", Outcome.SUCCESS)
    assert notes == []


def test_true_begins_an_episode_and_false_ends_it(bag):
    events = [level(t, "/run", v) for t, v in ((0.5, True), (0.7, True), (1.5, False))]
    events += [level(t, "/run", v) for t, v in ((1.6, False), (2.0, True), (2.5, False))]
    jobs, notes = jobs_of(bag(*events), "topic:/run")
    assert spans(jobs) == [(0.5, 1.5), (2.0, 2.5)]
    assert notes == []


def test_an_episode_without_an_end_goes_on_to_the_end_of_the_bag(bag):
    jobs, notes = jobs_of(bag(level(2.0, "/run", True)), "topic:/run")
    assert spans(jobs) == [(2.0, None)]
    assert "goes on to the end of the bag" in notes[0]


def test_words_begin_and_end_episodes_and_tell_their_outcome(bag):
    words = {0.2: "start", 0.6: "succeeded", 0.8: "start", 1.2: " failed ", 1.3: "stop"}
    words |= {1.4: "start", 1.8: "stop", 2.0: "start", 2.2: "discard"}
    jobs, notes = jobs_of(bag(*(at(t, "/e", word) for t, word in words.items())), "topic:/e")
    assert spans(jobs) == [(0.2, 0.6), (0.8, 1.2), (1.4, 1.8)]
    assert [job.outcome for job in jobs] == [Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS]
    assert ["discarded" in note for note in notes] == [True]


def test_a_second_start_leaves_out_what_was_begun_before(bag):
    words = {0.2: "start", 1.0: "start", 1.5: "stop"}
    jobs, notes = jobs_of(bag(*(at(t, "/e", word) for t, word in words.items())), "topic:/e")
    assert spans(jobs) == [(1.0, 1.5)]
    assert "left out" in notes[0]


def test_events_that_cannot_be_understood_are_refused(bag):
    path = bag(at(1.0, "/e", "pause"))
    with pytest.raises(DataError, match="/e says 'pause', expected one of start, stop"):
        jobs_of(path, "topic:/e")
    with pytest.raises(DataError, match="/joint_states is sensor_msgs/msg/JointState, expected"):
        jobs_of(path, "topic:/joint_states")
    with pytest.raises(DataError, match="/f is not in the bag, expected"):
        jobs_of(path, "topic:/f")


def test_silence_of_the_reference_parts_episodes(tmp_path):
    def keep(_, stamp):
        return not 1.0 < (stamp - EPOCH) / SECOND < 1.8

    path = write_bag(tmp_path / "bag", joints(keep=keep), custom=TASK)
    whole, _ = jobs_of(path, "gap:1.0")
    parted, _ = jobs_of(path, "gap:0.5")
    assert spans(whole) == [(-0.498, 3.502)]
    # The joints are received 2 ms late; a quarter of a second goes to either side of a pause.
    assert spans(parted) == [(-0.248, 1.252), (1.552, 3.252)]


def test_ranges_are_cut_out_of_the_bags_they_name(bag, tmp_path):
    first, second = bag(name="first"), bag(name="second", custom={})
    ranges = [
        {"bag": "second", "start_s": 1, "stop_s": 2.5, "task": "wipe the table"},
        {"bag": "first", "start_s": 1.5, "outcome": "failure"},
        {"bag": str(first), "start_s": 0, "stop_s": 1.5},
    ]
    file = tmp_path / "ranges.json"
    file.write_text(json.dumps(ranges))
    split = parse_split(f"ranges:{file}", [first, second])
    contract = sample_contract(tmp_path, cameras=False)
    with open_bag(first) as one, open_bag(second) as other:
        begin = other.start
        parts = [split(one, contract).parts, split(other, contract).parts]
    assert [(p.start - begin, p.stop and p.stop - begin) for p in parts[0]] == [
        (0, 1_500_000_000),
        (1_500_000_000, None),
    ]
    assert [part.outcome for part in parts[0]] == ["", "failure"]
    assert [(p.start - begin, p.stop - begin, p.task) for p in parts[1]] == [
        (1_000_000_000, 2_500_000_000, "wipe the table")
    ]


@pytest.mark.parametrize(
    ("ranges", "error"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list"),
        ("[1]", "range 0: expected an object"),
        ('[{"start_s": 0}]', "expected a key bag"),
        ('[{"bag": "other", "start_s": 0}]', "'other' is the name of 0 of the bags"),
        ('[{"bag": "bag", "start_s": 0, "end_s": 1}]', "unknown key 'end_s'"),
        ('[{"bag": "bag", "start_s": NaN}]', "start_s is nan, expected seconds"),
        ('[{"bag": "bag", "start_s": true}]', "start_s is True"),
        ('[{"bag": "bag", "start_s": -1}]', "start_s is -1"),
        (f'[{{"bag": "bag", "start_s": 1{"0" * 400}}}]', "start_s is 1000"),
        ('[{"bag": "bag"}]', "start_s is None"),
        ('[{"bag": "bag", "start_s": 1, "stop_s": 1}]', "stop_s is 1, expected more than"),
        ('[{"bag": "bag", "start_s": 0, "stop_s": 9}]', "is 3.000 s long"),
        ('[{"bag": "bag", "start_s": 0, "task": "a\\nb"}]', "no control characters"),
        ('[{"bag": "bag", "start_s": 0, "outcome": []}]', "outcome is '.*', expected unknown"),
        (
            '[{"bag": "bag", "start_s": 1}, {"bag": "bag", "start_s": 0, "stop_s": 1.1}]',
            "range 0 overlaps range 1",
        ),
    ],
)
def test_ranges_that_are_wrong_are_named(bag, tmp_path, ranges, error):
    (tmp_path / "ranges.json").write_text(ranges)
    with pytest.raises(DataError, match=error):
        jobs_of(bag(), f"ranges:{tmp_path / 'ranges.json'}")


@pytest.mark.parametrize("text", ["", "files", "topic:run", "gap:", "gap:-1", "gap:nan", "ranges:"])
def test_unknown_ways_to_split_are_refused(text):
    with pytest.raises(DataError, match="expected file, topic:/NAME, gap:SECONDS"):
        parse_split(text, [])


def test_the_task_comes_from_the_first_of_its_sources(bag):
    path = bag(at(0.1, "/task", "by topic"), at(0.1, "/said", "by another"))
    silent = bag(at(0.1, "/task", "by topic"), custom={}, name="silent")
    for found, expected in (
        (jobs_of(path, task="given"), "given"),
        (jobs_of(path, task_topic="/said"), "by another"),
        (jobs_of(path), "stack the cups"),
        (jobs_of(silent), "by topic"),
    ):
        assert [job.task for job in found[0]] == [expected]


def test_the_task_of_an_episode_is_the_one_in_force_for_most_of_it(bag):
    # Each task is given just before or just after its episode begins.
    texts = {0.1: "first", 0.9: "", 1.05: "second", 1.9: "third"}
    events = {0.2: "start", 0.8: "stop", 1.0: "start", 1.8: "stop", 2.0: "start", 2.8: "stop"}
    path = bag(
        *(at(t, "/task", text) for t, text in texts.items()),
        *(at(t, "/e", word) for t, word in events.items()),
        custom={},
    )
    assert [job.task for job in jobs_of(path, "topic:/e")[0]] == ["first", "second", "third"]


def test_a_task_message_of_the_graph_is_read(bag):
    kind = "vla_interfaces/msg/Task"
    text = "uint64 GOAL_NONE=0\nstd_msgs/Header header\nuint64 goal\nstring<=512 text\n"
    from rosbags.typesys import get_types_from_msg

    STORE.register(get_types_from_msg(text, kind))
    message = STORE.types[kind](header=header(EPOCH), goal=1, text="wipe the table")
    path = bag(Message(EPOCH + SECOND, "/task", kind, message), custom={})
    assert [job.task for job in jobs_of(path)[0]] == ["wipe the table"]


@pytest.mark.parametrize(
    ("custom", "more", "error"),
    [
        ({}, [], "nothing says the task of the episode at 0.000 s; give --task TEXT"),
        ({}, [("/task", "")], "nothing says the task"),
        ({"task": "a\x1b[2Jb"}, [], r"'a\\x1b\[2Jb', expected no control characters"),
        ({"task": "x" * 513}, [], "has 513 characters, expected at most 512"),
        ({}, [("/task", "a\nb")], "expected no control characters"),
        ({"task": "t", "outcome": "great"}, [], "outcome of the custom data is 'great', expected"),
    ],
)
def test_tasks_and_outcomes_that_cannot_be_used_are_named(bag, custom, more, error):
    path = bag(*(at(1.0, topic, text) for topic, text in more), custom=custom)
    with pytest.raises(DataError, match=error) as caught:
        jobs_of(path)
    assert "\n" not in str(caught.value)


def test_the_outcome_given_counts_but_for_what_an_episode_says_itself(bag):
    path = bag(at(0.5, "/e", "start"), at(1.0, "/e", "failed"))
    [given], _ = jobs_of(path, outcome=Outcome.UNKNOWN)
    [ended], _ = jobs_of(path, "topic:/e", outcome=Outcome.SUCCESS)
    assert (given.outcome, ended.outcome) == (Outcome.UNKNOWN, Outcome.FAILURE)


def test_a_discarded_bag_is_left_out_whatever_is_given(bag):
    path = bag(custom={"task": "t", "outcome": "discard"})
    jobs, [note] = jobs_of(path, outcome=Outcome.SUCCESS)
    assert jobs == []
    assert "discarded" in note
    custom = {"task": "t", "outcome": "discard"}
    path = bag(at(0.5, "/e", "start"), at(1.0, "/e", "succeeded"), custom=custom, name="ended")
    jobs, [note] = jobs_of(path, "topic:/e")
    assert jobs == []
    assert "discarded" in note


def test_the_subtask_topic_is_found_by_its_name(bag):
    assert jobs_of(bag())[0][0].subtask_topic is None
    path = bag(at(0.1, "/subtask", "reach"), name="other")
    assert jobs_of(path)[0][0].subtask_topic == "/subtask"
    with pytest.raises(DataError, match="/ns/sub is not in the bag"):
        jobs_of(path, subtask_topic="/ns/sub")
    path = bag(at(0.1, "/ns/sub", "reach"), level(0.2, "/subtask", True), name="third")
    assert jobs_of(path)[0][0].subtask_topic is None
    assert jobs_of(path, subtask_topic="/ns/sub")[0][0].subtask_topic == "/ns/sub"


def test_a_task_topic_without_messages_says_nothing(bag):
    path = bag(custom={})
    with Writer(path / "silent", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/task", "std_msgs/msg/String", typestore=STORE)
    (path / "silent/silent.mcap").rename(path / "bag_1.mcap")
    (path / "metadata.yaml").unlink()
    with pytest.raises(DataError, match="nothing says the task"):
        jobs_of(path)


def test_a_task_that_the_contract_does_not_list_is_noted(bag):
    _, notes = jobs_of(bag(), task="fold the shirt")
    assert notes == ["task 'fold the shirt' is not one of the contract's"]


def test_a_text_is_in_force_until_the_next_one():
    texts = Texts([(30, "c"), (10, "a"), (20, "b"), (20, "B")])
    assert [texts.at(t) for t in (9, 10, 19, 20, 29, 30, 99)] == ["", "a", "a", "B", "B", "c", "c"]
    assert texts.longest(15, 40) == "B"
    assert texts.longest(0, 9) == ""
    assert Texts().longest(0, 9) == Texts().at(5) == ""


@pytest.mark.parametrize("text", ["क्\u200dष", "👩\u200d🍳 kocht", "赤い\u3000カップ", "10\u00a0cm"])
def test_letters_that_join_and_spaces_of_all_scripts_are_text(text):
    assert check_text(text, "a task") == text


@pytest.mark.parametrize("text", ["a\tb", "a\x1b[2J", "a\u2028b", "a\ud800"])
def test_control_characters_and_half_characters_are_no_text(text):
    with pytest.raises(DataError, match="expected no control characters"):
        check_text(text, "a task")
