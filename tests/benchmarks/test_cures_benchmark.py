"""The benchmark of cures: pairs that differ in the cure alone, and when a cure counts as shown."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import cures  # noqa: E402
from cures_plan import (  # noqa: E402
    CURES,
    POLICY,
    RM,
    SEEDS,
    Trial,
    labels_recipe_of,
    recipe_of,
    trials,
)
from gnomon.algorithms.registry import find_method  # noqa: E402
from gnomon.recipe.load import apply_override, validate_as  # noqa: E402
from gnomon.recipe.schema import Recipe  # noqa: E402
from gnomon.stats.intervals import Interval  # noqa: E402

BETTER, WORSE, STILL = (Interval(v, v - 0.1, v + 0.1, 100) for v in (0.3, -0.3, 0.05))


def test_every_trial_is_a_recipe_and_differs_from_the_sick_one_by_its_overrides(
    tmp_path: Path,
) -> None:
    for trial in trials():
        sick = recipe_of(Trial(trial.sickness, None, trial.seed), tmp_path)
        raw = recipe_of(trial, tmp_path)
        for entry in (*raw["stages"][0]["reward"], *sick["stages"][0]["reward"]):
            entry.pop("model", None)  # a cure of the reward model has a model of its own
        assert {**raw, "name": ""} == {**sick, "name": ""}
        made = [(recipe_of(trial, tmp_path), trial.overrides(POLICY))]
        if trial.labels is not None:
            made.append((labels_recipe_of(trial, tmp_path), trial.overrides(RM)))
        for plain, overrides in made:
            for override in overrides:
                apply_override(plain, override)
            for stage in validate_as(Recipe, plain, trial.id, None).stages:
                if stage.algorithm != "collect":
                    validate_as(find_method(stage.algorithm).settings, stage.settings, "", None)
    assert len({trial.id for trial in trials()}) == len(trials())
    for cure in CURES.values():
        assert cure.overrides == (*cure.of(RM), *cure.of(POLICY))


def test_a_cure_is_shown_only_at_every_seed_where_the_sick_run_is_sick() -> None:
    assert cures.verdict([BETTER] * 3, [WORSE] * 3) == "shown"
    assert cures.verdict([BETTER, BETTER, STILL], [WORSE] * 3) == "not shown"
    assert cures.verdict([BETTER] * 2, [WORSE] * 2) == "2 of 3 seeds run"
    assert "not sick" in cures.verdict([BETTER] * 3, [WORSE, WORSE, STILL])


@pytest.mark.parametrize("gain", [0.5, -0.5])
def test_the_table_is_of_paired_differences(gain: float) -> None:
    rows = {}
    for seed in SEEDS:
        noise = [0.1 * ((7 * i + seed) % 5) for i in range(50)]
        base = [1.0 + n + 0.02 * (i % 2) for i, n in enumerate(noise)]
        columns = {"base": base, POLICY: noise}
        cured = [n + gain + 0.01 * (i % 3 - 1) for i, n in enumerate(noise)]
        better = {"base": base, POLICY: cured}
        for cure, found in ((None, columns), ("kl", better)):
            rows[Trial("overoptimised", cure, seed).id] = {"gold": found, "judge": found}
    (line,) = [row for row in cures.table(rows).splitlines() if row.startswith("| `kl`")]
    assert f"{gain:+.2f} [" in line
    assert line.endswith("| shown |" if gain > 0 else "| not shown |")
