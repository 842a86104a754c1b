"""The study designer: its world, its forecasts, and what it forecasts for real studies."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from typer.testing import CliRunner

from gnomon.cli.label_plan import plan
from gnomon.cli.main import app
from gnomon.errors import ConfigError
from gnomon.feedback.agreement import Level, Units, alpha, vote_units
from gnomon.feedback.plan import (
    Design,
    Prices,
    Wish,
    designs,
    forecast,
    out_of_reach,
    study_agreement,
    study_alpha,
)
from gnomon.feedback.records import Item, Label, Vote
from gnomon.feedback.store import Store
from gnomon.feedback.worlds import World, counts_of, fit_pilot
from gnomon.records import Cost, Message, Prompt, Response

QUICK = {"crews": 4, "studies": 20}


def study(world: World, n: int, people: int, k: int, seed: int, lean: float = 0.0) -> np.ndarray:
    """[n, k] votes of a study, drawn here and not by the planner."""
    rng = np.random.default_rng(seed)
    crew = world.crew(people, rng)
    asked = np.array([rng.permutation(people)[:k] for _ in range(n)])
    return world.votes(rng.normal(lean, 1.0, (n, 1)), crew[asked], rng)


# -- the world -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accuracy", "ties"), [(0.6, 0.0), (0.8, 0.0), (0.75, 0.25), (0.95, 0.1)])
def test_labellers_are_as_accurate_and_as_undecided_as_said(accuracy: float, ties: float) -> None:
    world = World(accuracy, 0.0, ties)
    rng = np.random.default_rng(0)
    lead = rng.normal(size=400_000)
    said = world.votes(lead, np.full(lead.shape, world.crew(1, rng)[0]), rng) - 1
    assert np.mean(said == 0) == pytest.approx(ties, abs=0.004)
    assert np.mean(said[said != 0] == np.sign(lead[said != 0])) == pytest.approx(
        accuracy, abs=0.004
    )


def test_accuracies_spread_as_said() -> None:
    rng = np.random.default_rng(0)
    world = World(0.75, 0.1)
    lead = rng.normal(size=4000)
    right = [
        np.mean(np.sign(lead) == world.votes(lead, np.full(lead.shape, s), rng) - 1)
        for s in world.crew(300, rng)
    ]
    assert np.mean(right) == pytest.approx(0.75, abs=0.02)
    assert np.std(right) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "bad", [{"accuracy": 0.5}, {"accuracy": 1.0}, {"ties": 0.95}, {"spread": -1}]
)
def test_a_world_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give"):
        World(**bad)


# -- figures of a study ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_of_a_study_is_the_librarys(level: Level) -> None:
    counts = counts_of(study(World(0.8, 0.1, 0.2), 60, 5, 3, seed=1))
    both = np.vstack([counts, counts[:, ::-1]]).astype(int)
    expected = krippendorff.alpha(
        value_counts=both, value_domain=[0.0, 0.5, 1.0], level_of_measurement=level
    )
    assert study_alpha(counts, level) == pytest.approx(expected, abs=1e-12)


def test_agreement_by_hand() -> None:
    # a a a: 1;  a a b: 1/3 of the pairs agree;  a tie b: (1/2 + 1/2 + 0) / 3
    counts = np.array([[0, 0, 3], [1, 0, 2], [1, 1, 1]], dtype=float)
    assert study_agreement(counts) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


# -- forecasts -------------------------------------------------------------------------------------


def test_what_is_counted_is_right() -> None:
    found = forecast(World(), Design(100, 5, 2), Prices(0.5, 36.0), **QUICK)  # type: ignore[arg-type]
    assert (found.labels, found.money, found.hours) == (200, 100.0, 2.0)
    assert found.labels_each == 40.0
    assert found.shared == pytest.approx(10.0)  # 100 items, a pair of people each, 10 such pairs


def test_the_interval_is_as_wide_as_forecast_and_covers() -> None:
    world, design = World(0.8, 0.0), Design(200, 6, 3)
    shown = forecast(world, design)
    truth = study_alpha(counts_of(study(world, 100_000, 6, 3, seed=99)), "nominal")
    covered, widths = 0, []
    for seed in range(60):
        counts = counts_of(study(world, 200, 6, 3, seed))
        units = Units(counts, np.array([0.0, 0.5, 1.0]), np.arange(200), True)
        found = alpha(units, "nominal", resamples=200, seed=seed)
        covered += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert covered >= 51  # 57 expected
    assert shown.alpha_width == pytest.approx(np.mean(widths), rel=0.12)
    assert shown.alpha == pytest.approx(truth, abs=0.02)


def test_a_detectable_win_rate_is_seen_four_times_in_five() -> None:
    from scipy.special import ndtri  # type: ignore[import-untyped]

    world, design = World(0.75, 0.05, 0.1), Design(150, 6, 2)
    lean = float(ndtri(0.5 + forecast(world, design, **QUICK).win_difference))  # type: ignore[arg-type]
    seen = 0
    for seed in range(300):
        wins = study(world, 150, 6, 2, seed, lean).mean(1) / 2.0
        seen += abs(wins.mean() - 0.5) > 1.96 * wins.std(ddof=1) / math.sqrt(150)
    assert 0.72 <= seen / 300 <= 0.88


def test_one_label_an_item_shows_no_agreement() -> None:
    found = forecast(World(), Design(100, 5, 1), **QUICK)  # type: ignore[arg-type]
    assert math.isnan(found.alpha_width)
    assert math.isinf(found.ability_error)
    assert found.sure == pytest.approx(0.8, abs=0.01)  # as right as one labeller


def test_more_labels_are_never_worse() -> None:
    found = [forecast(World(), Design(300, 9, k), **QUICK) for k in (1, 3, 5)]  # type: ignore[arg-type]
    assert [f.sure for f in found] == sorted(f.sure for f in found)
    assert [f.bits for f in found] == sorted(f.bits for f in found)
    assert [f.win_difference for f in found] == sorted(
        (f.win_difference for f in found), reverse=True
    )


# -- wishes ----------------------------------------------------------------------------------------


def test_the_cheapest_design_meets_the_wish_and_one_item_less_does_not() -> None:
    world, wish = World(0.8, 0.05), Wish(difference=0.06, alpha_width=0.15)
    found = designs(world, wish, Prices(0.5), labellers=3)
    best = found[0]
    assert not wish.missed(best)
    assert all(best.money <= other.money for other in found[1:] if not wish.missed(other))
    fewer = best.scaled(best.design.items - 1, world, Prices(0.5))
    assert wish.missed(fewer)


def test_a_budget_alone_buys_as_much_as_it_pays() -> None:
    found = designs(World(), Wish(budget=100.0), Prices(0.5), labellers=2)
    assert all(195 < f.labels <= 200 for f in found)
    assert found[0].win_difference == min(f.win_difference for f in found)


def test_wishes_that_nothing_meets_say_so() -> None:
    wish = Wish(sure=0.999, budget=10.0)
    assert designs(World(0.6), wish, Prices(0.5), labellers=3) == []
    (why,) = out_of_reach(World(0.6), wish, labellers=3)
    assert why.startswith("the consensus is right on 0.6")
    assert why.endswith("with 100,000 items and 3 labels on each")
    words = " ".join(run("--accuracy", "0.6", "--labellers", "3", "--sure", "0.999").split())
    assert "No study gives what was asked: the consensus is right on 0.6" in words
    assert "inf" not in words
    with pytest.raises(ConfigError, match="--price"):
        designs(World(), Wish(budget=10.0), Prices())
    with pytest.raises(ConfigError, match="say what"):
        designs(World(), Wish(), Prices(1.0))


# -- pilots ----------------------------------------------------------------------------------------


def test_a_pilot_of_a_known_world_forecasts_like_that_world() -> None:
    world = World(0.8, 0.0, 0.2)
    said = study(world, 400, 5, 3, seed=3)
    votes = [
        Vote(str(i), f"p{k}", 0, 1, x / 2.0)
        for i, row in enumerate(said)
        for k, x in enumerate(row)
    ]
    fitted = fit_pilot(votes)
    assert fitted.ties == pytest.approx(0.2, abs=0.03)
    own, truth = (forecast(w, Design(200, 5, 3)) for w in (fitted, world))
    assert own.alpha == pytest.approx(truth.alpha, abs=0.05)
    assert own.alpha_width == pytest.approx(truth.alpha_width, rel=0.15)
    assert own.win_difference == pytest.approx(truth.win_difference, rel=0.35)


def test_a_pilot_without_overlap_is_refused() -> None:
    with pytest.raises(ConfigError, match="two labellers"):
        fit_pilot([Vote("1", "anna", 0, 1, 1.0), Vote("2", "ben", 0, 1, 0.0)])


def test_a_pilot_of_pandalm_forecasts_its_other_items(shared_data: Path) -> None:
    """The width of alpha's interval at 300 items from 100, against subsampling of all."""
    with gzip.open(shared_data / "pandalm" / "testset-v1.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    won = {"0": 0.5, "1": 1.0, "2": 0.0}
    items = [[won[str(row[f"annotator{k}"])] for k in (1, 2, 3)] for row in rows]
    pilot = [
        Vote(str(i), str(k), 0, 1, x) for i, row in enumerate(items[::8]) for k, x in enumerate(row)
    ]
    shown = forecast(fit_pilot(pilot), Design(300, 3, 3))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(150):
        chosen = [items[i] for i in rng.integers(len(items), size=300)]
        drawn.append(study_alpha(counts_of((np.array(chosen) * 2).astype(int)), "nominal"))
    whole = alpha(
        vote_units(
            Vote(str(i), str(k), 0, 1, x) for i, row in enumerate(items) for k, x in enumerate(row)
        ),
        "nominal",
        resamples=1,
    )
    assert shown.alpha == pytest.approx(whole.value, abs=0.08)
    assert shown.alpha_width == pytest.approx(2 * 1.96 * np.std(drawn, ddof=1), rel=0.35)


# -- the command -----------------------------------------------------------------------------------


def run(*args: str) -> str:
    done = CliRunner().invoke(app, ["label", "plan", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_design_and_a_wish_on_the_command_line() -> None:
    shown = json.loads(
        run("--items", "100", "--labellers", "4", "--per-item", "3", "--price", "0.5", "--json")
    )
    (design,) = shown["designs"]
    assert design["money"] == 150.0
    assert design["design"] == {"items": 100, "labellers": 4, "per_item": 3}
    words = run("--difference", "0.08", "--labellers", "3", "--price", "0.5")
    assert "Take: " in words
    assert "Next best: " in words
    assert "Assumed: a person who names a side names the better one in 80% of pairs" in words


def test_no_study_of_a_million_pairs_is_proposed() -> None:
    assert designs(World(), Wish(difference=0.001), Prices(), labellers=2) == []
    rich = designs(World(), Wish(budget=1e9), Prices(0.5), labellers=2)
    assert {f.design.items for f in rich} == {100_000}


def _store(folder: Path, said: np.ndarray) -> str:
    """A store of votes [items, people]: 2 where the first response is better, 0 the second, 1 a
    tie."""
    ranks = {0: (2.0, 1.0), 1: (1.0, 1.0), 2: (1.0, 2.0)}
    with Store.open(folder / "pilot.db") as store:
        answers = tuple(Response((Message("assistant", t),)) for t in ("one", "two"))
        names = [f"question {i}" for i in range(len(said))]
        store.add_items(Item(f"i{i}", Prompt(str(i), (Message("user", name),)), answers)
                        for i, name in enumerate(names))  # fmt: skip
        store.add_labels(
            (Label(f"l{i}-{k}", f"i{i}", f"p{k}", "ranking", ranks=ranks[int(x)])
             for i, row in enumerate(said) for k, x in enumerate(row)),
            add_labellers="person",
        )  # fmt: skip
    return str(folder / "pilot.db")


@pytest.mark.parametrize("wish", [("--difference", "0.05"), ("--sure", "0.9"), ("--items", "200")])
def test_a_pilot_that_contradicts_itself_is_called_that(
    tmp_path: Path, wish: tuple[str, ...]
) -> None:
    pilot = _store(tmp_path, np.array([[0, 2], [2, 0]] * 20))
    words = " ".join(run(pilot, "--labellers", "2", *wish).split())
    assert "labels contradict each other: no number of such labels shows" in words
    assert "inf" not in words.replace("information", "")
    assert "1,000,000" not in words
    assert json.loads(run(pilot, "--labellers", "2", *wish, "--json"))["contradictory"] is True


def test_a_pilot_at_chance_is_said_to_show_nothing_and_one_of_ties_is_refused(
    tmp_path: Path,
) -> None:
    coins = np.random.default_rng(0).integers(0, 2, (40, 2)) * 2
    words = " ".join(run(_store(tmp_path, coins), "--items", "200", "--labellers", "2").split())
    assert "may be made of noise" in words or "contradict each other" in words
    (tmp_path / "ties").mkdir()
    ties = _store(tmp_path / "ties", np.ones((9, 2)))
    with pytest.raises(ConfigError, match="calls its two responses equal"):
        plan(ties, items=100, labellers=2)


def test_a_store_is_a_pilot(tmp_path: Path) -> None:
    said = study(World(0.85, 0.0), 60, 3, 3, seed=5)
    with Store.open(tmp_path / "labels.db") as store:
        prompts = [Prompt(str(i), (Message("user", f"question {i}"),)) for i in range(len(said))]
        answers = tuple(Response((Message("assistant", t),)) for t in ("one", "two"))
        items = [Item(f"i{i}", p, answers, campaign="c") for i, p in enumerate(prompts)]
        store.add_items(items)
        store.add_labels(
            (Label(
                f"l{i}-{k}", f"i{i}", f"p{k}", "ranking",
                ranks=(1.0, 2.0) if x == 2 else (2.0, 1.0), cost=Cost(seconds=20.0, money=0.3),
            )
            for i, row in enumerate(said)
            for k, x in enumerate(row)),
            add_labellers="person",
        )  # fmt: skip
    shown = json.loads(
        run(
            str(tmp_path / "labels.db"),
            "--items",
            "200",
            "--labellers",
            "3",
            "--per-item",
            "3",
            "--json",
        )
    )
    assert shown["designs"][0]["money"] == pytest.approx(180.0)  # what the pilot's labels cost
    assert shown["world"]["accuracy"] == pytest.approx(0.85, abs=0.07)
    with pytest.raises(ConfigError, match="fitted"):
        plan(str(tmp_path / "labels.db"), accuracy=0.8)
    with pytest.raises(ConfigError, match="no campaign"):
        plan(str(tmp_path / "labels.db"), campaign="nope")


def test_bad_options_name_the_cure() -> None:
    with pytest.raises(ConfigError, match="--difference is 2"):
        plan(difference=2.0)
    with pytest.raises(ConfigError, match="--labellers 5 or more"):
        plan(items=10, labellers=2, per_item=5)
    with pytest.raises(ConfigError, match="needs --items"):
        plan(per_item=3)
    assert replace(Design(10, 3, 2), items=20).labels == 40
