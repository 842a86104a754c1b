"""Shared fixtures: everything offline, on one thread, seeded."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers of -n share the cores

from pathlib import Path

import pytest
import torch

from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the tunnel's tokenizer, as a folder that a recipe can name."""
    from tiny_world import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))
