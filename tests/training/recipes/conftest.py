# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share."""

import os
from pathlib import Path

import pytest
import torch

# Bit for bit the same on every machine, and no GPU is asked for.
os.environ["ACCELERATE_USE_CPU"] = "true"


@pytest.fixture(scope="module", autouse=True)  # before the trainings that a module shares
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, ``tokenizer`` and ``fast``. Not to be written to."""
    from recipe_samples import make_sample

    return make_sample(tmp_path_factory.mktemp("recipe"))
