"""report.html: complete, self-contained, safe with hostile text, and rebuilt from files alone."""

import ast
import base64
import hashlib
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests_report_oracles import HOSTILE

import gnomon.report
from gnomon.errors import DataError
from gnomon.report.html import write_report


class _Page(HTMLParser):
    """Tags with their attributes, ids, and the text outside style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.text, self._skip = [], set(), [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id"))
        self._skip = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if not self._skip:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page(reported):
    return _Page((reported / "report.html").read_text(encoding="utf-8"))


def test_every_section_is_there(page):
    expected = {
        "answer",
        "asked",
        "results",
        "verdict",
        "samples",
        "skipped",
        "reproduce",
        "memory",
    }
    expected |= {"stage-1", "stage-2", "stage-3", "curves", "browse"}
    assert expected <= page.ids
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    for text in ("0.420", "[0.380, 0.460]", "over-optimised", "gnomon run recipe.yaml seed=7",
                 "versions.torch", "2.13.0", "sha256:" + "ab" * 32, "beta: 0.0",
                 "demos.jsonl, row 12: empty response", "And 1 more."):  # fmt: skip
        assert text in page.words, text


def test_nothing_is_requested_and_nothing_runs_but_the_pages_own_script(page, reported):
    names = [tag for tag, _ in page.tags]
    assert not set(names) & {"link", "iframe", "object", "form", "base", "embed"}
    images = [a["src"] for tag, a in page.tags if tag == "img"]
    assert len(images) >= 7
    for src in images:
        head, data = src.split(",", 1)
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not any(k.startswith("on") or k == "style" for _, a in page.tags for k in a)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    text = (reported / "report.html").read_text(encoding="utf-8")
    for tag in ("style", "script"):  # the one there is, by its hash
        assert names.count(tag) == 1
        inside = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}


def test_hostile_text_is_shown_as_text(page):
    assert " ".join(HOSTILE.split()) in page.words
    assert "</div><img src=http://evil.test/x>" in page.words


def test_every_image_says_what_it_shows(page, reported):
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    drawn = len(list((reported / "plots").glob("*.png")))
    assert drawn == sum(t == "img" for t, _ in page.tags)


def test_rebuilt_from_a_moved_copy_it_is_the_same(run_dir, tmp_path):
    for stage in ("01-sft", "03-ppo"):
        shutil.rmtree(run_dir / "stages" / stage)
    first = write_report(run_dir).read_text(encoding="utf-8")
    copy = tmp_path / "moved" / run_dir.name
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("plots", "report.html"))
    assert write_report(copy).read_text(encoding="utf-8") == first
    assert str(run_dir) not in first


def test_a_run_cut_short_still_gets_its_report(run_dir):
    shutil.rmtree(run_dir / "stages" / "03-ppo")
    for name in ("comparison.json", "manifest.json"):
        (run_dir / name).unlink()
    (run_dir / "stages" / "02-reward_model" / "metrics.parquet").write_bytes(b"cut")
    (run_dir / "stages" / "01-sft" / "stage.json").unlink()
    page = _Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "unfinished" in page.words
    assert "manifest.json is missing" in page.words
    assert "metrics.parquet cannot be read" in page.words
    assert "results" not in page.ids


def test_samples_fall_back_to_before_and_after(run_dir):
    for stage in ("01-sft", "02-reward_model"):
        shutil.rmtree(run_dir / "stages" / stage)
    (run_dir / "comparison.json").unlink()
    page = _Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "before ppo" in page.words
    assert "after ppo · reward 0.500 · rm 0.400 · length bonus" in page.words.replace("_", " ")
    assert "cut off" in page.words


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a run directory"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


ALLOWED = (
    *("report", "errors", "files", "stats", "runs", "recipe", "audit", "evals", "plugins"),
    "console",
)


def test_a_report_is_made_without_torch_or_anything_that_trains():
    code = """
import sys
import gnomon.report.html, gnomon.report.runs, gnomon.report.seeds, gnomon.report.table
rooms = ("torch", "gnomon.algorithms", "gnomon.training", "gnomon.stages", "gnomon.models")
print([name for name in sys.modules if name.startswith(rooms)])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_the_report_knows_nothing_of_training():
    for file in Path(gnomon.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                allowed = tuple(f"gnomon.{name}" for name in ALLOWED)
                assert not name.startswith(("gnomon.", "torch")) or name.startswith(allowed), file
