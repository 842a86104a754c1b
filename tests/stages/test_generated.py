"""Prompts made on demand, from a recipe's data entry to a reward."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import Sample
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import DataSpec, RewardSpec
from gnomon.records import Group
from gnomon.stages.sources import DataReport, check_source, read_specs
from gnomon.tasks.instructions import TOPICS

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smollm2-instructions.yaml"


def read(**options: object) -> list[Group]:
    spec = DataSpec(path="instructions:prompts", options=dict(options))
    return read_specs([spec], base=Path(), stage_groups=Path, kind="prompts", report=DataReport())


def text_of(group: Group) -> str:
    return group.prompt.messages[0].content


def topics(groups: list[Group]) -> set[str]:
    return {t for t in TOPICS for g in groups if t in text_of(g)}


def test_prompts_are_fixed_by_their_options_and_splits_share_no_topic() -> None:
    train, test = read(n=200, seed=1, most=1), read(n=60, seed=1, most=1, split="test")
    assert [text_of(g) for g in train] == [text_of(g) for g in read(n=200, seed=1, most=1)]
    assert [text_of(g) for g in train] != [text_of(g) for g in read(n=200, seed=2, most=1)]
    assert len({text_of(g) for g in train}) == 200
    assert topics(train)
    assert topics(test)
    assert not topics(train) & topics(test)
    assert all(len(g.prompt.meta["instructions"]) == 1 for g in train)
    only = read(n=20, kinds=["no_commas", "lowercase"], most=1)
    assert {g.prompt.category for g in only} == {"no_commas", "lowercase"}


def test_a_made_prompt_is_judged_by_what_it_asks() -> None:
    spec = RewardSpec(builtin="instructions", options={"unfinished": 0})
    reward = one_judge(spec, base=Path(), load=None)  # type: ignore[arg-type]
    (group,) = read(n=1, kinds=["no_commas"], most=1)
    assert text_of(group).endswith("Do not use any commas.")
    plain, listed = "Bread needs flour water and time.", "Bread needs flour, water and time."
    samples = [
        Sample(group.prompt, plain),
        Sample(group.prompt, listed),
        Sample(group.prompt, plain, finished=False),
    ]
    assert [s.value for s in reward(samples)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("instructions:prompt", {"n": 3}, "did you mean 'instructions:prompts'"),
        ("instructions:prompts", {}, "'n'"),
        ("instructions:prompts", {"n": 3, "kind": "x"}, "options are n, seed, split, most, kinds"),
        ("instructions:prompts", {"n": 3, "kinds": ["no_comas"]}, "no_comas"),
        ("instructions:prompts", {"n": 3, "split": "heldout"}, "train or test"),
        ("instructions:prompts", {"n": 9999, "kinds": ["no_commas"]}, "different prompts"),
        ("instructions:prompts", {"n": "many"}, "options"),
    ],
)
def test_bad_requests_are_named(path: str, options: dict[str, object], said: str) -> None:
    spec = DataSpec(path=path, options=options)
    with pytest.raises(ConfigError, match=said):
        read_specs([spec], base=Path(), stage_groups=Path, kind="prompts", report=DataReport())
    if options.get("n") in (9999, "many"):
        return  # found when they are made
    with pytest.raises(ConfigError, match=said):
        check_source(spec, Path())


def test_the_recipes_held_out_prompts_are_not_trained_on() -> None:
    recipe = load_recipe(RECIPE)
    assert recipe.compare is not None
    train, test = (
        read_specs(specs, base=Path(), stage_groups=Path, kind="prompts", report=DataReport())
        for specs in (recipe.stages[0].data, recipe.compare.prompts)
    )
    assert (len(train), len(test)) == (600, 160)
    assert not topics(train) & topics(test)
    assert {g.prompt.category for g in train} == {g.prompt.category for g in test}
