"""What each stage bought and cost, from hand-made records whose every figure is known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.report.bought import Gain, bought, total
from gnomon.report.bought_table import (
    COST,
    NOTE,
    bought_markdown,
    bought_tables,
    costs,
    seeds_cells,
    verdict,
)
from gnomon.report.card import run_card
from gnomon.report.html import write_report
from gnomon.runs.read import read_run
from gnomon.stats.intervals import Interval, t_quantile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROMPTS = 40
HOSTILE = "<b>bad</b>"

RECIPE = """
name: stack
on_fail: previous
card: {watts_per_cpu: 10}
stages:
  - {name: sft, algorithm: sft, data: [{path: demos.jsonl}], eval_data: [{path: demos.jsonl}]}
  - name: feedback
    algorithm: collect
    data: [{path: prompts.jsonl}]
    settings: {labellers: [{name: anna}, {name: ben}]}
  - {name: dpo, algorithm: dpo, data: [{path: "stage:feedback"}, {path: pairs.jsonl}]}
  - {name: look, algorithm: eval}
  - {name: grpo, algorithm: grpo, data: [{path: prompts.jsonl}], reward: [{builtin: gold}]}
  - {name: rm, algorithm: reward_model, data: [{path: "stage:feedback"}]}
  - {name: ppo, algorithm: ppo, reward: [{model: rm}]}
compare: {prompts: [{path: prompts.jsonl}], rewards: [{builtin: gold}]}
"""


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def scores(shift: float, seed: int) -> list[list[float]]:
    """One answer a prompt: the prompt's difficulty, the policy's own shift, and noise."""
    hard = np.random.default_rng(0).normal(0, 1, PROMPTS)
    noise = np.random.default_rng(seed).normal(0, 0.1, PROMPTS)
    return [[float(x)] for x in hard + shift + noise]


POLICIES = {"base": (0.0, 1), "sft": (0.5, 2), "dpo": (0.9, 3), "grpo": (0.9, 4), "ppo": (0.7, 5)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """sft is kept, dpo is held back (so grpo goes on from sft), ppo from grpo."""
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    made = [
        ("sft", "sft", "tunnel", {}), ("feedback", "collect", "sft", {"anna": {"judged": 30},
        "ben": {"judged": 20, "money": 0.5}}), ("dpo", "dpo", "sft", {}),
        ("look", "eval", "dpo", {}), ("grpo", "grpo", "sft", {"gold": {"judged": 999}}),
        ("rm", "reward_model", "grpo", {}), ("ppo", "ppo", "grpo", {}),
    ]  # fmt: skip
    numbers = {name: i for i, (name, *_) in enumerate(made, start=1)}
    places = {n: str(folder / "stages" / f"{i:02d}-{n}" / "model") for n, i in numbers.items()}
    for name, algorithm, start, judges in made:
        stage = folder / "stages" / f"{numbers[name]:02d}-{name}"
        if algorithm not in ("collect", "eval"):
            kind = "reward_model" if algorithm == "reward_model" else "policy"
            write(stage / "model" / "gnomon.json", {"kind": kind})
        compute = {"parameters": {"policy": 1}, "forward": {"policy": 100, "sampler": 20},
                   "backward": {"policy": 70}} if algorithm != "eval" else {}  # fmt: skip
        write(
            stage / "stage.json",
            {"name": name, "algorithm": algorithm, "status": "done", "seconds": 10.0,
             "cpu_seconds": 8.0, "judges": judges, "compute": compute,
             "start": {"from": places.get(start, start), "sha256": f"of-{start}"}},
        )  # fmt: skip
    rows = {"sft: demos.jsonl": 200, "sft: demos.jsonl (2)": 50, "feedback: prompts.jsonl": 10,
            "grpo: prompts.jsonl": 9, "dpo: stage:feedback": 9, "dpo: pairs.jsonl": 60}  # fmt: skip
    data = {key: {"rows": n, "sha256": "x"} for key, n in rows.items()}
    write(folder / "manifest.json", {"name": "stack", "data": data})
    compared = [
        {"model": name, "values": [1.0, {"value": 10 + i, "low": 9 + i, "high": 11 + i}],
         "gains": [None], "scores": [scores(*POLICIES[name])]}
        for i, name in enumerate(POLICIES)
    ]  # fmt: skip
    write(
        folder / "comparison.json",
        {"columns": ["gold", "length (tokens)"], "reference": "sft", "rows": compared,
         "prompts": [f"p{i}" for i in range(PROMPTS)]},
    )  # fmt: skip
    closed = {"condition": "win_rate >= 0.5", "stage": "look", "passed": False, "text": HOSTILE}
    opened = {**closed, "stage": "sft", "passed": True}
    write(folder / "gates.json", {"sft": [opened], "look": [closed]})
    write(
        folder / "evals" / "dpo" / "win_rate.json",
        {"suite": "win_rate", "model": "dpo", "against": "start", "judge": "carla", "n": 25,
         "main": "win_rate",
         "settings": {"against_sha256": "of-sft", "judge": {"builtin": "labeller"}},
         "scores": {"win_rate": {"value": 0.4, "low": 0.3, "high": 0.49, "n": 25}}},
    )  # fmt: skip
    return folder


def test_each_policy_is_compared_with_what_it_was_trained_from(run: Path) -> None:
    rows = {row.policy: row for row in bought(read_run(run))}
    assert list(rows) == ["sft", "dpo", "grpo", "ppo"]
    assert {name: row.before for name, row in rows.items()} == {
        "sft": "base", "dpo": "sft", "grpo": "sft", "ppo": "grpo",
    }  # fmt: skip
    for name, row in rows.items():
        gain = row.gain("gold")
        assert gain is not None
        gaps = np.subtract(scores(*POLICIES[name]), scores(*POLICIES[row.before]))[:, 0]
        half = t_quantile(0.95, PROMPTS - 1) * gaps.std(ddof=1) / np.sqrt(PROMPTS)
        assert gain.figure.value == pytest.approx(gaps.mean())
        assert gain.figure.high - gain.figure.value == pytest.approx(half)
    said = {name: rows[name].gain("gold").shown for name in rows}  # type: ignore[union-attr]
    assert said == {"sft": "better", "dpo": "better", "grpo": "better", "ppo": "worse"}


def test_a_win_rate_is_measured_from_a_half_and_length_is_neither_good_nor_bad(run: Path) -> None:
    dpo = bought(read_run(run))[1]
    won = dpo.gain("win rate by carla")
    assert won is not None
    assert (won.nothing, won.figure.value, won.shown) == (0.5, 0.4, "worse")
    longer = dpo.gain("length (tokens)")
    assert longer is not None
    assert longer.sign == 0
    assert longer.shown == "not shown"  # 12 [11, 13] over 11 [10, 12]
    assert Gain("length", Interval(2.0, 1.0, 3.0), sign=0).shown == "more"
    assert Gain("loss", Interval(-2.0, -3.0, -1.0), sign=-1).shown == "better"
    assert Gain("gold", Interval(2.0)).shown == "not shown"  # no interval, nothing shown


def test_of_an_eval_where_less_is_better_the_table_says_so(run: Path) -> None:
    for model, value in (("sft", 0.1), ("dpo", 0.6)):
        figure = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 90}
        write(run / "evals" / model / "refusal.json", {
            "suite": "refusal", "model": model, "main": "compliance", "higher_is_better": False,
            "scores": {"compliance": figure}, "data": {"r.jsonl": "d"},
        })  # fmt: skip
    harm = bought(read_run(run))[1].gain("refusal, compliance (less is better)")
    assert harm is not None
    assert (harm.figure.value, harm.shown) == (0.5, "worse")


def test_a_win_rate_over_another_model_says_nothing_of_the_stage(run: Path) -> None:
    file = run / "evals" / "dpo" / "win_rate.json"
    raw = json.loads(file.read_text())
    write(file, {**raw, "settings": {**raw["settings"], "against_sha256": "of-another"}})
    assert bought(read_run(run))[1].gain("win rate by carla") is None


def test_what_was_kept(run: Path) -> None:
    rows = bought(read_run(run))
    assert [row.state for row in rows] == ["kept", "held back", "kept", "kept"]
    assert [verdict(row) for row in rows] == [
        "kept by its gates", "held back", "kept: no gate asked", "kept: no gate asked",
    ]  # fmt: skip
    assert [gate.stage for gate in rows[1].gates] == ["look"]


def test_what_was_kept_is_known_without_the_models(run: Path) -> None:
    for folder in run.glob("stages/*/model"):
        shutil.rmtree(folder)
    rows = bought(read_run(run))
    assert [row.state for row in rows] == ["kept", "held back", "kept", "kept"]


def test_an_imported_policy_is_the_one_that_the_run_ends_with(tmp_path: Path) -> None:
    write(
        tmp_path / "theirs/stages/01-policy/stage.json",
        {"name": "policy", "algorithm": "grpo", "status": "done"},
    )
    (tmp_path / "theirs/recipe.yaml").write_text("stages: [{name: policy, algorithm: grpo}]")
    (row,) = bought(read_run(tmp_path / "theirs"))
    assert verdict(row) == "kept: no gate asked"


def test_a_policy_beside_the_line_is_called_so_without_the_models(run: Path) -> None:
    file = run / "stages/07-ppo/stage.json"
    info = json.loads(file.read_text())
    write(file, {**info, "start": {"from": str(run / "stages/01-sft/model")}})
    shutil.rmtree(run / "stages/07-ppo/model")
    rows = {row.policy: row.state for row in bought(read_run(run))}
    assert rows == {"sft": "kept", "dpo": "held back", "grpo": "beside", "ppo": "kept"}


def test_costs_count_every_stage_once_with_the_first_policy_that_needed_it(run: Path) -> None:
    rows = bought(read_run(run))
    assert [row.stages for row in rows] == [
        ("sft",), ("feedback", "dpo", "look"), ("grpo",), ("rm", "ppo"),
    ]  # fmt: skip
    dpo = rows[1].cost
    assert (dpo.seconds, dpo.cpu_seconds, dpo.tokens, dpo.trained) == (30.0, 24.0, 240, 140)
    assert dpo.money == 0.5
    assert dpo.labels == {
        "answers judged by anna, ben": 50, "preferences": 60, "pairs compared by carla": 25,
    }  # fmt: skip
    assert rows[0].cost.labels == {"demonstrations": 200}  # not the 50 that were held out
    assert rows[2].cost.labels == {}  # a reward's verdicts are no labels, nor are prompts
    assert (dpo.joules, dpo.estimated) == (240.0, True)  # 24 s of 10 W
    whole = total(rows)
    assert (whole.seconds, whole.tokens, whole.joules) == (70.0, 6 * 120, 560.0)
    assert costs(whole)["energy"] == "about 0.156 Wh"


def test_what_a_program_checks_is_no_label(run: Path) -> None:
    text = RECIPE.replace("settings: {labellers: [{name: anna}, {name: ben}]}", "reward: [maths]")
    (run / "recipe.yaml").write_text(text)
    file = run / "evals" / "dpo" / "win_rate.json"
    raw = json.loads(file.read_text())
    write(file, {**raw, "settings": {**raw["settings"], "judge": {"builtin": "maths"}}})
    dpo = bought(read_run(run))[1]
    assert dpo.cost.labels == {"preferences": 60}
    assert dpo.gain("win rate by carla") is not None


def test_a_meter_that_is_missing_makes_the_sum_unknown(run: Path) -> None:
    (run / "recipe.yaml").write_text(RECIPE.replace("card: {watts_per_cpu: 10}", ""))
    rows = bought(read_run(run))
    assert [row.cost.joules for row in rows] == [None] * 4
    assert costs(total(rows))["energy"] == "not known"


def test_a_policy_in_training_is_left_out_and_an_old_comparison_is_not_paired(run: Path) -> None:
    file = run / "stages" / "07-ppo" / "stage.json"
    write(file, {**json.loads(file.read_text()), "status": "running"})
    compared = json.loads((run / "comparison.json").read_text())
    for i, row in enumerate(compared["rows"]):
        row["scores"] = []
        row["values"][0] = {"value": i, "low": i - 0.3, "high": i + 0.4, "n": 9}
    write(run / "comparison.json", compared)
    rows = bought(read_run(run))
    assert [row.policy for row in rows] == ["sft", "dpo", "grpo"]
    gain = rows[0].gain("gold")
    assert gain is not None  # Newcombe: each end as far as both sides in squares
    assert (gain.figure.value, gain.figure.low) == (1.0, pytest.approx(0.5))


def test_over_seeds_the_mean_the_spread_and_how_often_it_is_shown(run: Path) -> None:
    one = bought(read_run(run))
    heads, cells = seeds_cells([one, one, one[:1]])
    assert heads[:2] == ["stage", "over"]
    sft = dict(zip(heads, cells[0], strict=True))
    value = one[0].gain("gold").figure.value  # type: ignore[union-attr]
    assert sft["gold"] == f"+{value:.3f} ({value:.3f} to {value:.3f}), better on 3/3"
    assert sft["kept on"] == "3/3"
    dpo = dict(zip(heads, cells[1], strict=True))
    assert dpo["kept on"] == "0/2"
    assert dpo["win rate by carla"] == "0.400 (0.400 to 0.400), worse on 2/2"


def test_page_terminal_and_card_show_it_and_escape_what_others_wrote(run: Path) -> None:
    file = run / "evals" / "dpo" / "win_rate.json"
    write(file, {**json.loads(file.read_text()), "judge": HOSTILE})
    page = write_report(run).read_text(encoding="utf-8")
    assert 'id="bought"' in page
    assert "win rate by &lt;b&gt;bad" in page
    assert HOSTILE not in page
    assert "held back" in page
    assert len(bought_tables(bought(read_run(run)))) == 2
    assert bought_tables([]) == []
    alone = replace(bought(read_run(run))[0], gains=())
    assert [str(table.title) for table in bought_tables([alone])] == [COST]
    card = run_card(run)
    assert "What each stage bought and cost" in card
    told = bought_markdown(bought(read_run(run)))
    assert "win rate by" in told
    assert HOSTILE not in told


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_table_is_seen_in_a_browser_and_fits_a_phone(run: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    page_file = write_report(run)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(page_file.as_uri())
        shown = page.locator("#bought").inner_text()
        assert "What each stage bought and cost" in shown
        assert NOTE[:40] in shown
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390  # tables scroll by themselves
        browser.close()


def test_a_stage_of_control_has_no_tokens_to_count(tmp_path: Path) -> None:
    info = {"name": "walk", "algorithm": "control", "status": "done", "seconds": 10.0}
    write(tmp_path / "stages" / "01-walk" / "stage.json", info)
    assert costs(total(bought(read_run(tmp_path))))["tokens"] == "0"
