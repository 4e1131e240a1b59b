# SPDX-License-Identifier: Apache-2.0
"""Pools of processes and of Ray's tasks."""

import operator
import os
import signal

import pytest
from bag_samples import EPOCH, SECOND, Recording, sample_contract, sample_messages, write_bag
from convert_samples import TASK, cli
from shard_samples import dataset_digest

from vla_training.data.conversion.executor import executor, run_all
from vla_training.data.errors import DataError


def results(pool, jobs, function):
    looks = []
    done = run_all(
        jobs,
        lambda job: pool.submit(function, *job),
        pool.width,
        lambda job: f"did {job}",
        lambda running: looks.append(len(running)),
    )
    return dict(done), looks


def test_calls_run_side_by_side_and_give_their_results(tmp_path):
    jobs = [(n, n + 1) for n in range(20)]
    with executor("local", 3, len(jobs), tmp_path / "log") as pool:
        done, looks = results(pool, jobs, operator.mul)
    assert done == {(a, b): a * b for a, b in jobs}
    assert max(looks) <= pool.width == 3


def test_there_are_no_more_processes_than_calls(tmp_path):
    with executor("local", 64, 1, tmp_path / "log") as pool:
        assert pool.width == 1


def test_the_death_of_a_process_names_its_job(tmp_path):
    with (
        executor("local", 2, 2, tmp_path / "log") as pool,
        pytest.raises(DataError, match=r"the process that did \(9,\) died") as caught,
    ):
        results(pool, [(9,)], signal.raise_signal)
    assert "--resume" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_call_raises_is_raised(tmp_path):
    with (
        executor("local", 1, 1, tmp_path / "log") as pool,
        pytest.raises(ZeroDivisionError),
    ):
        results(pool, [(1, 0)], operator.truediv)


def test_processes_write_their_errors_to_the_log(tmp_path, capfd):
    with executor("local", 1, 1, tmp_path / "log") as pool:
        results(pool, [(2, b"from below\n")], os.write)
    assert (tmp_path / "log").read_text() == "from below\n"
    assert capfd.readouterr().err == ""


def test_leaving_early_ends_what_still_runs(tmp_path):
    with executor("local", 1, 2, tmp_path / "log") as pool:
        process = pool.submit(os.getpid).result()
        pool.submit(signal.pause)  # never returns by itself
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.fixture
def folder(tmp_path):
    sample_contract(tmp_path)
    for index in range(3):
        recording = Recording(seconds=1.5, seed=index, start=EPOCH + index * 10 * SECOND)
        write_bag(tmp_path / f"ep_{index}", sample_messages(recording), custom=TASK)
    return tmp_path


def test_the_number_of_workers_does_not_show_in_the_dataset(folder):
    assert cli(folder, "ep_*", out="one", workers=1) == 0
    assert cli(folder, "ep_*", out="three", workers=3) == 0
    assert dataset_digest(folder / "one") == dataset_digest(folder / "three")


@pytest.mark.slow
def test_ray_makes_the_same_dataset(folder, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cli(folder, "ep_*", out="local") == 0
    assert cli(folder, "ep_*", out="ray", executor="ray", workers=2) == 0
    assert dataset_digest(folder / "local") == dataset_digest(folder / "ray")


@pytest.mark.slow
def test_ray_tells_deaths_and_errors_like_processes(tmp_path, monkeypatch):
    def refuse(text):
        raise DataError(text)

    def die(number):
        signal.raise_signal(number)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with executor("ray", 1, 1, tmp_path / "log") as pool:
        with pytest.raises(DataError) as caught:
            results(pool, [("one line",)], refuse)
        assert str(caught.value) == "one line"
        with pytest.raises(DataError, match=r"the process that did \(9,\) died"):
            results(pool, [(9,)], die)


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nonsense://nowhere")
    with (
        pytest.raises(DataError, match="RAY_ADDRESS=nonsense://nowhere"),
        executor("ray", 1, 1, tmp_path / "log"),
    ):
        pass
