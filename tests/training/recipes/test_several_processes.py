# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
import torch
from recipe_samples import logged
from safetensors.torch import load_file

from vla_training.recipes.run_state import newest_state

OPTIONS = [
    *("--mode", "joint", "--size", "tiny", "--steps", "5", "--batch-size", "8", "--workers", "0"),
    *("--log-every", "1", "--ema", "0", "--learning-rate", "1e-3"),
]


def train(sample, out, processes, accumulate):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    launcher += [str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    launcher += ["--dynamo_backend", "no", "--main_process_port", "0"]
    data = ["--dataset", str(sample / "data"), "--tokenizer", str(sample / "tokenizer")]
    data += ["--accumulate", str(accumulate)]
    command = [*launcher, "-m", "vla_training.recipes.train", "policy", *OPTIONS]
    done = subprocess.run(
        [*command, *data, "--out", str(out)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_as_one_does(sample, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(sample, one, 1, 1)
    printed = train(sample, two, 2, 2)
    assert printed.count("5 steps") == 1
    for name in ("loss", "text", "action", "gradient_norm"):
        ours, theirs = (logged(out, f"train/{name}") for out in (one, two))
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (logged(out, "validation/loss") for out in (one, two))
    assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (load_file(newest_state(o / "state") / "model.safetensors") for o in (one, two))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-4, rtol=1e-3)
