# SPDX-License-Identifier: Apache-2.0
"""vla-label with a value function, and what follows from its values."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shard_samples import CAMERAS, H264, Episode, schema, write_shard
from value_checkpoint_samples import make_value_checkpoint

from vla_nodes.models.value_checkpoint import ValueCheckpoint
from vla_training.data.labels.label import main
from vla_training.data.labels.labels import advantages, returns, weights
from vla_training.data.schema import Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.evaluation import value_predictions
from vla_training.evaluation.value_predictions import predict_values

TASK = "take the red block"
LENGTHS = (6, 4, 9)
FAILED = (False, True, False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valued")
    shards, first = [], 0
    for number, (length, failed) in enumerate(zip(LENGTHS, FAILED, strict=True)):
        outcome = Outcome.FAILURE if failed else Outcome.SUCCESS
        episode = Episode(length, first, TASK, outcome, ("",))
        shards.append(write_shard(folder / f"shard{number}", episode, schema(10)))
        first += length
    write_dataset(folder / "set", shards, schema(10), H264, {})
    return folder / "set"


@pytest.fixture
def dataset(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data" / "set"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ValueCheckpoint:
    folder = tmp_path_factory.mktemp("checkpoint") / "value"
    return make_value_checkpoint(folder, [TASK], sorted(CAMERAS))


def run(dataset: Path, *arguments: object) -> int:
    return main([str(dataset), "--workers", "0", "--device", "cpu", *map(str, arguments)])


def column(root: Path, name: str) -> np.ndarray:
    files = sorted((root / "data").glob("*/*.parquet"))
    return np.concatenate([pd.read_parquet(file)[name].to_numpy() for file in files])


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def record(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/labels.json").read_text())


def test_values_are_those_predicted_and_labels_follow_from_them(
    dataset: Path, checkpoint: ValueCheckpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = predict_values(checkpoint, dataset, range(3), workers=0, device="cpu").value
    assert run(dataset, "--value-checkpoint", checkpoint.folder, "--beta", "0.3") == 0
    assert "38 images in" in capsys.readouterr().err
    values = column(dataset, "value")
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-6)
    y = returns(LENGTHS, [0] * 3, FAILED)
    a = advantages(y, values, LENGTHS)
    np.testing.assert_allclose(column(dataset, "advantage"), a, atol=1e-6)
    np.testing.assert_array_equal(column(dataset, "positive"), a >= np.quantile(a, 0.7))
    np.testing.assert_allclose(column(dataset, "weight"), weights(a, [0] * 19, beta=0.3), rtol=1e-5)
    assert "subtask_return" not in record(dataset)["columns"]  # it has no subtask
    assert len(record(dataset)["settings"]["value_checkpoint"]) == 64
    assert [path.name for path in dataset.parent.iterdir()] == ["set"]


def test_values_that_are_there_are_not_predicted_again(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(dataset, "--value-checkpoint", checkpoint.folder) == 0
    before, values = contents(dataset), column(dataset, "value")
    monkeypatch.delattr(value_predictions, "predict_episodes")
    assert run(dataset, "--value-checkpoint", checkpoint.folder) == 0
    assert "has these labels already" in capsys.readouterr().out
    assert contents(dataset) == before
    # Other settings make other labels of the same values, however they are asked for.
    for arguments in (["--value-checkpoint", checkpoint.folder], ["--values", "value"]):
        assert run(dataset, *arguments, "--horizon", "2") == 1
        assert run(dataset, *arguments, "--horizon", "2", "--replace") == 0
        a = advantages(returns(LENGTHS, [0] * 3, FAILED), values, LENGTHS, horizon=2)
        np.testing.assert_allclose(column(dataset, "advantage"), a, atol=1e-6)
        np.testing.assert_array_equal(column(dataset, "value"), values)
        assert run(dataset, *arguments, "--replace") == 0


@pytest.mark.parametrize(
    ("learnt", "words", "said"),
    [
        ({"mode": "global", "max_steps": 500}, [], "mode 'global', and mode is 'per_task' here"),
        ({"mode": "per_task", "coefficient": 0.5}, [], "coefficient 0.5, and coefficient is 1.0"),
        (
            *({"mode": "global", "max_steps": 500}, ["--mode", "global", "--max-steps", "9"]),
            "max_steps 500, and max_steps is 9",
        ),
    ],
)
def test_values_of_another_scale_are_refused(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    learnt: dict[str, Any],
    words: list[str],
    said: str,
) -> None:
    folder = Path(shutil.copytree(checkpoint.folder, tmp_path / "other"))
    about = json.loads((folder / "value.json").read_text())
    (folder / "value.json").write_text(json.dumps({**about, "labels": learnt}))
    before = contents(dataset)
    assert run(dataset, "--value-checkpoint", folder, *words) == 1
    assert said in capsys.readouterr().err
    assert contents(dataset) == before


def test_values_of_another_checkpoint_are_refused_or_replaced(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_value_checkpoint(tmp_path / "other", [TASK], sorted(CAMERAS), seed=1)
    assert run(dataset, "--value-checkpoint", checkpoint.folder) == 0
    values = column(dataset, "value")
    assert run(dataset, "--value-checkpoint", other.folder) == 1
    assert "value_checkpoint" in capsys.readouterr().err
    np.testing.assert_array_equal(column(dataset, "value"), values)
    assert run(dataset, "--value-checkpoint", other.folder, "--replace") == 0
    assert np.abs(column(dataset, "value") - values).max() > 1e-4
    assert run(dataset, "--replace") == 0
    assert record(dataset)["columns"] == ["return"]
    assert "value" not in json.loads((dataset / "meta/info.json").read_text())["features"]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Path(shutil.copytree(dataset, tmp_path / "whole"))
    assert run(whole, "--value-checkpoint", checkpoint.folder) == 0
    real, asked = value_predictions.predict_episodes, []

    def interrupted(checkpoint: Any, root: Path, episodes: list[int], **options: Any) -> Any:
        asked.append(list(episodes))
        parts = real(checkpoint, root, episodes, **options)
        yield next(parts)
        if len(asked) == 1:
            raise KeyboardInterrupt
        yield from parts

    monkeypatch.setattr(value_predictions, "predict_episodes", interrupted)
    before = contents(dataset)
    assert run(dataset, "--value-checkpoint", checkpoint.folder) == 130
    assert contents(dataset) == before
    (part,) = dataset.parent.glob(".set.values/*/0.npy")
    assert run(dataset, "--value-checkpoint", checkpoint.folder) == 0
    assert "1 episodes have values already" in capsys.readouterr().err
    assert asked == [[0, 1, 2], [1, 2]]
    assert contents(dataset) == contents(whole)
    assert not part.exists()


def test_refusals_come_before_predictions(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.delattr(value_predictions, "predict_episodes")
    folder = checkpoint.folder
    for arguments, named in (
        (["--value-checkpoint", folder, "--quantile", "2"], "quantile is 2"),
        (["--value-checkpoint", folder, "--values", "action"], "exclude each other"),
        (["--value-checkpoint", tmp_path], "no checkpoint of a value function: config.json"),
        (["--beta", "1"], "need --values"),
    ):
        assert run(dataset, *arguments) == 1
        assert named in capsys.readouterr().err
    assert run(dataset) == 0
    assert run(dataset, "--value-checkpoint", folder) == 1
    assert "--replace" in capsys.readouterr().err


def test_histograms_are_drawn_and_told(
    dataset: Path,
    checkpoint: ValueCheckpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plots = tmp_path / "plots"
    assert run(dataset, "--value-checkpoint", checkpoint.folder, "--plots", plots) == 0
    told = capsys.readouterr().out
    assert f"{TASK}: 19 frames" in told
    y = column(dataset, "return")
    assert f"{y.min():.3f}" in told
    assert (plots / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_a_camera_that_is_missing_is_an_error(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_value_checkpoint(tmp_path / "other", [TASK], ["side"])
    before = contents(dataset)
    assert run(dataset, "--value-checkpoint", other.folder) == 1
    assert "has no camera 'side'" in capsys.readouterr().err
    assert contents(dataset) == before


def test_help_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import vla_training.data.labels.label, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
