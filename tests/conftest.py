"""Shared fixtures: everything offline, on one thread, seeded."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers of -n share the cores

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

DRAWN = (
    *("test_inspect", "test_plan_command"),
    *("test_report_html", "test_report_plots", "test_report_sweep"),
)
"""The files whose tests draw their charts in full: between them, every kind of chart."""

FIRST = (
    *("test_ranks", "test_kill", "test_tutorials", "test_python_examples", "test_detector_rates"),
    *("test_judge_workers", "test_rollout_pool", "test_rollout_transfer"),
    *("test_export_gguf", "test_load", "test_verifiers_maths"),
)
"""The files with a test, or with something that their tests share, of half a minute or so."""


def pytest_configure(config: pytest.Config) -> None:
    """With ``-n``, a worker that is done takes half of what is left to another.

    So a file's tests stay on one worker, with what they share, and the last to end is a test, not a
    file.
    """
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "worksteal"
    gc.disable()  # until all tests are collected: what is made there stays


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is begun first: at the end a worker would wait for it, or would take half of
    such a file from the other and make anew what its tests share."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_collection_finish() -> None:
    """What is loaded later is not frozen: to look through it costs as much as a tenth of a test, so
    garbage is sought thirty times less often than usual."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """What is forced to disk matters when the power fails, which no test can bring about; those
    that look at when it is forced put a function of their own here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _only_what_is_here_is_seeded() -> Iterator[None]:
    """To seed a kind of device that is not here, torch notes the whole stack of calls, in case the
    kind turns up: that takes longer than many a test."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu, torch.mtia):
            if not kind.is_available():
                patch.setattr(kind, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@lru_cache
def _white(width: int, height: int) -> bytes:
    """A white picture, as a PNG."""
    file = BytesIO()
    Image.new("1", (width, height), 1).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _charts_are_blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reports of runs hold white pictures, but where they are looked at: to draw them takes many
    times as long as a tiny run."""
    from gnomon.report import style

    def blank(figure: Any, path: str | Path) -> Path:
        width, height = (round(inches * style.DPI) for inches in figure.get_size_inches())
        Path(path).write_bytes(_white(width, height))
        return Path(path)

    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem not in DRAWN:
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
