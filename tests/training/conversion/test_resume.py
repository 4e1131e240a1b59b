# SPDX-License-Identifier: Apache-2.0
"""A conversion that is interrupted, however, goes on to the dataset it would have become."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest
from bag_samples import EPOCH, SECOND, Recording, sample_contract, sample_messages, write_bag
from convert_samples import H264, TASK, cli, joints
from shard_samples import dataset_digest

from vla_training.data.conversion.staging import clear_staging, staging
from vla_training.data.errors import DataError
from vla_training.data.files import write_whole

PATIENCE = 100  # s; far more than anything takes
BAGS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bags of two cameras, and the dataset that they become without disturbance."""
    folder = tmp_path_factory.mktemp("resumed")
    sample_contract(folder)
    for index in range(BAGS):
        recording = Recording(seconds=2.0, seed=index, start=EPOCH + index * 10 * SECOND)
        write_bag(folder / f"ep_{index}", sample_messages(recording), custom=TASK)
    assert cli(folder, "ep_*", out="undisturbed") == 0
    return folder


class Victim:
    """A vla-convert in a session of its own, to be ended by a signal."""

    def __init__(self, folder, out, *options):
        command = [sys.executable, "-m", "vla_training.data.conversion.convert"]
        command += [str(folder / "ep_*"), "--contract", str(folder / "sample_arm.yaml")]
        command += ["--out", str(folder / out), *H264, *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.stderr.close()
        self.process.wait()

    def wait_for(self, path):
        """Waits until a file or folder is there, or was there too briefly to be seen."""
        wait_until(lambda: path.exists() or self.process.poll() is not None)
        assert self.process.poll() in (None, 0), self.process.stderr.read()

    def end(self):
        """Waits for its end and that of its workers; returns exit code and what it said."""
        code = self.process.wait(PATIENCE)
        wait_until(self._is_gone)
        return code, self.process.stderr.read().decode()

    def _is_gone(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def stop(folder, out, moment, number, *options):
    """Runs vla-convert, and sends it a signal when a file appears."""
    with Victim(folder, out, *options) as victim:
        victim.wait_for(folder / moment.format(f".{out}.partial"))
        if number == signal.SIGINT:  # as the terminal does it
            os.killpg(victim.process.pid, number)
        else:
            victim.process.kill()
        return victim.end()


def assert_goes_on(folder, out):
    assert not (folder / out).exists()
    assert cli(folder, "ep_*", out=out, resume=True) == 0
    assert dataset_digest(folder / out) == dataset_digest(folder / "undisturbed")
    assert not list(folder.glob(f".{out}*"))


@contextmanager
def ctrl_c_when(condition):
    """Interrupts the block at that moment, and nothing else."""
    inside = Event()

    def interrupt(*_):
        if inside.is_set():
            raise KeyboardInterrupt

    def watch():
        wait_until(lambda: condition() or not inside.is_set())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    handler = signal.signal(signal.SIGINT, interrupt)
    inside.set()
    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        inside.clear()
        thread.join()
        signal.signal(signal.SIGINT, handler)


def test_ctrl_c_and_death_cost_nothing_but_what_was_being_made(folder, capsys):
    partial = folder / ".both.partial"
    with ctrl_c_when((partial / "episode-000001").exists):
        assert cli(folder, "ep_*", out="both") == 130
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == "vla-convert: interrupted; go on with --resume"
    assert all(" of 8: " in line for line in lines)
    first = (partial / "episode-000000/result.json").stat().st_mtime_ns
    code, _ = stop(folder, "both", "{}/episode-000004/result.json", signal.SIGKILL, "--resume")
    assert code == -signal.SIGKILL
    assert (partial / "episode-000000/result.json").stat().st_mtime_ns == first  # not made anew
    assert_goes_on(folder, "both")


MOMENTS = [
    "{}/plan.json",
    "{}/workers.log",
    "{}/episode-000000/progress.txt",
    "{}/episode-000003/part-000.partial/front.mp4",
    "{}/episode-000007/result.json",
    "{}-dataset/meta",
    "{}-dataset/videos",
    "{}-dataset/meta/episodes",
    "{}-dataset/meta/conversion.json",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [(moment, signal.SIGKILL) for moment in MOMENTS]
    + [(MOMENTS[k], signal.SIGINT) for k in (0, 3, 6)],
)
def test_a_conversion_may_be_ended_at_any_moment(folder, moment, number):
    out = f"{moment.strip('{}/').replace('/', '_')}_{int(number)}"
    stop(folder, out, moment, number)
    if not (folder / out).exists():
        assert_goes_on(folder, out)
    assert dataset_digest(folder / out) == dataset_digest(folder / "undisturbed")


@pytest.fixture
def small(tmp_path):
    sample_contract(tmp_path, cameras=False)
    write_bag(tmp_path / "bag", joints(), custom=TASK)
    silent = joints(keep=lambda _, stamp: not EPOCH + SECOND < stamp < EPOCH + 2 * SECOND)
    write_bag(tmp_path / "gap", silent, custom=TASK)
    assert cli(tmp_path, "bag", "gap", on_gap="fail") == 1  # leaves the bag's shards behind
    return tmp_path


def test_what_was_left_is_neither_overwritten_nor_mixed(small, capsys):
    def refusal(*bags, **options):
        capsys.readouterr()
        assert cli(small, *bags, on_gap="fail", **options) == 1
        return capsys.readouterr().err

    assert "go on with --resume, or delete that folder" in refusal("bag", "gap")
    for options, difference in (
        ({"fps": 5}, "settings.fps was 10 and is 5"),
        ({"crf": 20}, "settings.video.crf was 30 and is 20"),
        ({"task": "another"}, 'episodes.0.task was "stack the cups" and is "another"'),
    ):
        assert difference in refusal("bag", "gap", resume=True, **options)
    assert "episodes was a list of 2 and is a list of 1" in refusal("bag", resume=True)
    (small / "bag/metadata.yaml").touch()
    changed = refusal("bag", "gap", resume=True)
    assert f"sources.{small / 'bag/metadata.yaml'}.mtime_ns was" in changed
    sample_contract(small, cameras=False, sample="next")
    assert "contract was" in refusal("bag", "gap", resume=True)


def test_what_shapes_no_dataset_does_not_hinder_its_resumption(small, capsys):
    (small / "bag/.directory").write_text("of a file manager")
    assert cli(small, "bag", "gap", on_gap="fail", resume=True) == 1
    assert "some episodes are bad" in capsys.readouterr().err


def test_a_finished_dataset_whose_staging_was_not_cleared_is_finished(small, capsys):
    assert cli(small, "bag", "gap") == 1  # the staging folder of another run is in the way
    for path in sorted(small.glob(".dataset.partial/**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (small / ".dataset.partial").rmdir()
    assert cli(small, "bag") == 0
    digest = dataset_digest(small / "dataset")
    assert cli(small, "bag", out="other", on_gap="fail") == 0
    assert cli(small, "bag", "gap", out="stuck", on_gap="fail") == 1
    (small / "dataset").rename(small / "stuck")
    assert cli(small, "bag", "gap", out="stuck", on_gap="fail", resume=True) == 1
    assert "exists already" in capsys.readouterr().err
    (small / ".stuck.partial").rename(small / ".whole.partial")
    (small / "other").rename(small / "whole")
    assert cli(small, "bag", "gap", out="whole", on_gap="fail", resume=True) == 0
    assert "was finished already" in capsys.readouterr().out
    assert not (small / ".whole.partial").exists()
    assert dataset_digest(small / "stuck") == digest


def test_two_runs_do_not_make_one_dataset(tmp_path):
    out = tmp_path / "dataset"
    with (
        staging(out, {"a": 1}, resume=False),
        pytest.raises(DataError, match="another vla-convert makes this dataset"),
        staging(out, {"a": 1}, resume=True),
    ):
        pass


def test_a_plan_that_was_never_written_whole_is_written_anew(tmp_path):
    folder = tmp_path / ".dataset.partial"
    folder.mkdir()
    (folder / ".plan.json.1").write_text("{")
    with staging(tmp_path / "dataset", {"a": [1, {"b": None}]}, resume=True) as found:
        assert found == folder
    assert json.loads((folder / "plan.json").read_text()) == {"a": [1, {"b": None}]}


def test_what_cannot_be_removed_at_once_does_not_spoil_a_finished_dataset(tmp_path):
    with staging(tmp_path / "dataset", {}, resume=False) as folder:
        held = (folder / "lock").stat().st_ino
        clear_staging(folder)
        (folder / f".nfs{held:08x}").touch()  # as NFS does it while the file is open
    assert [path.name for path in folder.iterdir()] == [f".nfs{held:08x}"]


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(DataError, match=r"report\.json: cannot be written"):
        write_whole(tmp_path / "report.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
