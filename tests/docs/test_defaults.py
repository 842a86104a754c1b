"""docs/defaults.md: our column is what the code has, TRL's what the installed TRL has."""

from __future__ import annotations

import dataclasses
import importlib
import re
from importlib.metadata import version
from typing import Any

import pytest
from docs_pages import ROOT

from gnomon.algorithms.rates import default_lr
from gnomon.algorithms.registry import METHODS as BY_NAME
from gnomon.recipe.rollout import RolloutSpec
from gnomon.recipe.training import TrainSpec
from gnomon.training.optim import OPTIMIZER

PAGE = (ROOT / "docs" / "defaults.md").read_text(encoding="utf-8")
EXPERIMENTAL = {"CPOConfig": "cpo", "ORPOConfig": "orpo", "OnlineDPOConfig": "online_dpo"}
COMMON = ("SFTConfig", "RewardConfig", "DPOConfig", "KTOConfig", "GRPOConfig", "RLOOConfig")
HEADING = re.compile(r"`(\w+)` and (\w+)")


def tables() -> list[tuple[str, list[list[str]]]]:
    """(heading, rows of cells) of every section with a table."""
    out = []
    for section in PAGE.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines()
            if line.startswith("| ") and not line.startswith("| gnomon")
        ]
        if rows:
            out.append((heading, rows))
    return out


def theirs(config: str, field: str) -> Any:
    """A default of one of TRL's config classes."""
    module = f"trl.experimental.{EXPERIMENTAL[config]}" if config in EXPERIMENTAL else "trl"
    kind = getattr(importlib.import_module(module), config)
    found = {f.name: f for f in dataclasses.fields(kind)}[field]
    if found.default is not dataclasses.MISSING:
        return found.default
    assert not isinstance(found.default_factory, type(dataclasses.MISSING))
    return found.default_factory()


def ours(key: str, method: str | None) -> Any:
    """A default of the schema or of an algorithm's settings."""
    place, name, *index = key.split(".")
    owner: Any = {"train": TrainSpec, "rollout": RolloutSpec}.get(place)
    if owner is None:
        assert method is not None
        owner = BY_NAME[method].settings
    value = owner.model_fields[name].default
    return value[int(index[0])] if index else value


def shown(value: Any) -> str:
    return str(getattr(value, "value", value))


METHODS = [
    pytest.param(*m.groups(), rows, id=m[1]) for h, rows in tables() if (m := HEADING.fullmatch(h))
]


def rows_of(heading: str) -> list[list[str]]:
    return dict(tables())[heading]


@pytest.mark.parametrize("config", [*COMMON, *EXPERIMENTAL])
def test_the_optimizers_numbers_are_trls_in_every_config(config: str) -> None:
    found = {row[2].strip("`"): row[3] for row in rows_of("The optimizer")}
    assert {"adam_beta2", "adam_epsilon", "weight_decay", "warmup_steps"} <= found.keys()
    assert {field: shown(theirs(config, field)) for field in found} == found


def test_the_optimizers_numbers_are_ours() -> None:
    found = {row[0].strip("`"): row[1] for row in rows_of("The optimizer")}
    assert {key: shown(ours(key, None)) for key in found} == found


@pytest.mark.parametrize(("method", "config", "rows"), METHODS)
def test_the_defaults_of_each_method(method: str, config: str, rows: list[list[str]]) -> None:
    for key, default, field, value, why in rows:
        assert default == shown(ours(key.strip("`"), method)), key
        if field:
            assert value == shown(theirs(config, field.strip("`"))), field
        assert default == value or why, f"{key} differs from TRL's, and no reason is given"


def test_the_rates_of_lr_auto() -> None:
    rows = rows_of("`lr: auto`")
    assert len(rows) == 9
    for method, rate, config, value in rows:
        base = BY_NAME[method.strip("`")].algorithm.base_lr
        assert base is not None
        assert rate == shown(default_lr(base, 7 * 10**9))
        assert value == shown(theirs(config, "learning_rate"))


def test_the_page_names_the_trl_that_is_installed_and_lacks_no_number() -> None:
    assert set(re.findall(r"TRL (\d+\.\d+\.\d+)", PAGE)) == {version("trl")}
    listed = {row[0].strip("`").split(".")[1] for row in rows_of("The optimizer")}
    assert set(OPTIMIZER) - {"lr", "head_weight_decay"} <= listed  # these two have their own text
    assert "`head_weight_decay`" in PAGE
    assert set(OPTIMIZER) <= TrainSpec.model_fields.keys()
