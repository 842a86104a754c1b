"""Shared fixtures: everything offline, on one thread, seeded."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers of -n share the cores

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

DRAWN = ("data", "docs", "plan", "report")
"""The rooms whose tests draw their charts in full."""


def pytest_configure(config: pytest.Config) -> None:
    """With ``-n``, a worker that is done takes half of what is left to another.

    So a file's tests stay on one worker, with what they share, and the last to end is a test, not a
    file.
    """
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "worksteal"
    gc.disable()  # until all tests are collected: what is made there stays


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _charts_are_blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reports of runs hold white pictures, but in the rooms where they are looked at: to draw them
    takes many times as long as a tiny run."""
    from gnomon.report import style

    def blank(figure: Any, path: str | Path) -> Path:
        size = [round(inches * style.DPI) for inches in figure.get_size_inches()]
        Image.new("1", (size[0], size[1]), 1).save(path, "PNG")
        return Path(path)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name not in DRAWN:
            patch.setattr(style, "save", blank)
        yield


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
