"""The documentation's site: its navigation is whole, its maths is read, its cures can be typed."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml
from docs_pages import ROOT, blocks
from tutorial_pages import commands, save_files

from gnomon.recipe.load import load_recipe
from gnomon.stages.names import stage_settings

DOCS = ROOT / "docs"
FAILURES = sorted((DOCS / "failures").glob("*.md"))
PAGES = [page for page in FAILURES if page.stem != "index"]


def module(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    return module("site_hooks")


# -- navigation


def configured() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Whatever Python objects the extensions want is passed over."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for inner in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [
        page.relative_to(DOCS).as_posix()
        for entry in entries(configured()["nav"])
        for page in (sorted(DOCS.glob(entry)) if "*" in entry else [DOCS / entry])
    ]
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_the_site_asks_for_nothing_outside() -> None:
    """No font, script or style of another host: what mkdocs.yml and the pages themselves say."""
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in configuration
    assert "http" not in re.sub(r"#.*", "", configuration)
    assert "http" not in (DOCS / "site.css").read_text(encoding="utf-8")


# -- maths


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("L = -A_t", r"L  = -A_{t}"),
        ("beta h", r"\beta  h "),
        ("pi_ref(y|x)", r"\pi_{\text{ref}}(y |x )"),
        ("sum_{t <= l_p} r_t", r"\sum _{t  \le  l_{p}} r_{t}"),
        ("clip(r, 1 - eps)", r"\operatorname{clip} (r , 1 - \varepsilon )"),
        ("a <- b", r"a  \leftarrow  b "),
    ],
)
def test_an_equation_of_a_docstring_is_read(hooks: ModuleType, written: str, read: str) -> None:
    assert hooks.latex(written) == read


def test_sentences_stay_what_they_are(hooks: ModuleType) -> None:
    block = "<div>as it was</div>"
    said = "the side where it would push further and further, above and below"
    assert hooks._typeset(block, said) == block
    assert "<math" in hooks._typeset(block, "L = -log sigma(z)")


def test_a_link_out_of_the_docs_leads_to_a_page_of_that_file(hooks: ModuleType) -> None:
    assert hooks._repository_path("docs/tunnel.md", "../recipes/a.yaml") == "recipes/a.yaml"
    assert hooks._uri("recipes/a.yaml") == "repository/recipes/a.yaml.md"
    assert hooks._uri("docs/ppo.md") == "ppo.md"


# -- failure modes


def test_each_failure_has_its_sign_alarm_cure_and_picture() -> None:
    assert len(PAGES) == 7
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for heading in ("The sign", "Which alarm sees it", "The cure", "What is measured"):
            assert f"## {heading}\n" in text, page.name
        assert f"(../images/{page.stem}.png)" in text, page.name
        picture = DOCS / "images" / f"{page.stem}.png"
        assert picture.stat().st_size <= 60_000, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_cure_is_an_override_of_its_recipe(page: Any, tmp_path: Any) -> None:
    for other in PAGES:
        save_files(other, tmp_path)
    runs = [c for block in blocks(page) if block.language == "sh" for c in commands(block)]
    cures = [words for c in runs if (words := shlex.split(c))[1] == "run"]
    assert cures
    for _, _, recipe, *overrides in cures:
        plain, cured = load_recipe(tmp_path / recipe), load_recipe(tmp_path / recipe, overrides)
        assert cured.name != plain.name
        assert cured.stages != plain.stages
        for stage in cured.stages:
            stage_settings(stage)


def test_the_pictures_are_of_the_recipes_on_the_pages() -> None:
    pictures = module("make_pictures")
    assert set(pictures.PAGES) == {page.stem for page in PAGES}
    assert pictures.recipe_of(pictures.START)["name"] == "start"
    for page in PAGES:
        assert pictures.recipe_of(page)["model"] in ("runs/start/stages/01-sft/model", "tunnel")


def test_the_command_line_s_page_is_fresh() -> None:
    maker = module("make_reference")
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert maker.render(page) == page, "stale: run python docs/make_reference.py"
    assert "## gnomon run\n" in page
    assert "`--resume`" in page
