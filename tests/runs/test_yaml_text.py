"""recipe.yaml is written and read with libyaml: as PyYAML would, and with the same complaints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.files import first_line
from gnomon.recipe.load import load_recipe
from gnomon.runs.records import dump_recipe, plain_recipe, read_recipe
from gnomon.runs.yaml_text import write_yaml_text

ROOT = Path(__file__).parents[2]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8)


def usual(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=float("inf"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "recipe.yaml"


def test_a_recipe_comes_back_as_it_was_written(file: Path) -> None:
    for shipped in ROOT.glob("recipes/*.yaml"):
        text = dump_recipe(load_recipe(shipped))
        file.write_text(text, encoding="utf-8")
        assert read_recipe(file) == yaml.safe_load(text) == plain_recipe(load_recipe(shipped))
        assert text == usual(yaml.safe_load(text)), shipped


@given(TREES)
@settings(max_examples=40, deadline=None)
def test_so_does_any_text_and_number(file: Path, tree: Any) -> None:
    text = write_yaml_text({"a": tree})
    assert yaml.safe_load(text) == yaml.safe_load(usual({"a": tree}))
    file.write_bytes(text.encode("utf-8"))
    assert read_recipe(file) == yaml.safe_load(file.read_text(encoding="utf-8"))


def test_letters_are_written_as_they_are() -> None:
    for text in ("naïve 日本 😀", "a\n😀\n", "\\U0001", "word " * 99 + "😀"):
        assert write_yaml_text({"a": text}) == usual({"a": text})
    assert "😀" in write_yaml_text({"a": "😀"})


def test_who_changes_what_was_read_changes_nothing_for_the_next(file: Path) -> None:
    file.write_text("stages: [{name: a}]\n", encoding="utf-8")
    read_recipe(file)["stages"][0]["name"] = "b"
    assert read_recipe(file) == {"stages": [{"name": "a"}]}


BROKEN = ["a: [1, 2", "a: b: c", "\t- a", "a: 'x", "a: \x07", "a: *x", "a: !!python/none x",
          "a: 1\n---\nb: 2", "a: 2024-13-45"]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_damaged_is_refused_in_the_same_words(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises((yaml.YAMLError, ValueError)) as plainly:
        yaml.safe_load(text)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        read_recipe(file)
    assert str(caught.value) == f"{file} cannot be read ({first_line(plainly.value)})"


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 50_000, "? " * 50_000])
def test_what_nests_too_deep_is_refused_and_ends_no_process(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read"):
        read_recipe(file)
