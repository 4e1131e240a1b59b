# SPDX-License-Identifier: Apache-2.0
"""What the tests of the energy check's data share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``policy`` and ``data``. Not to be written to."""
    from energy_samples import make_sample

    return make_sample(tmp_path_factory.mktemp("energy"))
