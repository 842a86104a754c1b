"""docs/recipes.md says what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from gnomon.algorithms.registry import METHODS
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.recipe.training import TrainSpec

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(maker: ModuleType) -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert maker.render(page) == page, "stale: run python docs/make_reference.py"


def test_the_page_holds_every_key_and_every_algorithm() -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for model in (Recipe, StageSpec, TrainSpec, *(m.settings for m in METHODS.values())):
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` |" in page
    for name in METHODS:
        assert f"### `{name}`:" in page


def test_an_old_table_is_noticed_and_the_rest_is_kept(maker: ModuleType) -> None:
    page = "above\n<!-- reference: recipe -->\nOUTDATED\n<!-- end reference -->\nbelow\n"
    fresh = maker.render(page)
    assert "OUTDATED" not in fresh
    assert fresh.startswith("above\n")
    assert fresh.endswith("\nbelow\n")
    assert maker.render(fresh) == fresh
    assert maker.render(fresh.replace("`1024`", "`1025`")) == fresh


def test_a_row_shows_type_bounds_default_and_meaning(maker: ModuleType) -> None:
    class Toy(BaseModel):
        """A toy."""

        rate: float | None = Field(None, gt=0, le=1, description="how fast")
        way: Literal["a", "b"] = Field("a", description="which")
        name: str = Field(description="who")

    table = maker._section(Toy, "### Toy")
    assert "| `rate` | number \\| null, > 0, ≤ 1 | `null` | how fast |" in table
    assert "| `way` | `a` \\| `b` | `a` | which |" in table
    assert "| `name` | text | required | who |" in table


def test_a_key_without_a_meaning_is_refused(maker: ModuleType) -> None:
    class Toy(BaseModel):
        mystery: int = 0

    with pytest.raises(KeyError, match=r"Toy\.mystery has no meaning"):
        maker._section(Toy, "### Toy", about="")


def test_no_meaning_is_left_over(maker: ModuleType) -> None:
    """A meaning for a key that is gone, or that the code describes by now, misleads."""
    known = [*maker.TITLES, maker.CollectSettings, maker.LabellerSpec]
    known += [m.settings for m in METHODS.values()]
    undescribed = {
        f"{owner.__name__}.{name}"
        for model in known
        for name, field in model.model_fields.items()
        if not field.description
        for owner in model.__mro__
    }
    assert sorted(set(maker.MEANINGS) - undescribed) == []
