"""The model card: its structure, that it states nothing no record holds, hostile text, cut runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_world import HOSTILE, SHA, STATED, build, recipe, write
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.errors import DataError
from gnomon.report import markdown as md
from gnomon.report.card import run_card, write_cards
from gnomon.report.card_training import flop
from gnomon.report.compute import full_pass
from gnomon.report.format import count, duration, measured, number
from gnomon.stats.intervals import Interval

SECTIONS = [
    "What it is",
    "Intended use and limits",
    "Gates",
    "Failures found",
    "Evaluation",
    "What each stage bought and cost",
    "Data",
    "Labellers and judges",
    "Training",
    "Compute and energy",
    "How to reproduce it",
    "What is missing",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run whose recipe states something."""
    return build(tmp_path / "made", STATED)


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """The same run, with nothing stated."""
    return build(tmp_path / "made")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.M)


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def metadata(text: str) -> dict[str, Any]:
    """The front matter as the hub's own library reads it."""
    return dict(ModelCard(text).data.to_dict())  # type: ignore[no-untyped-call]


def html(text: str) -> str:
    """As a page shows it: with tables, and with raw HTML let through, as the hub does."""
    body = text.partition("\n---\n")[2] if text.startswith("---\n") else text
    made: str = MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(body)
    return made


# -- structure ------------------------------------------------------------------------------------


def test_a_card_has_its_sections_in_order(run: Path) -> None:
    assert headings(run_card(run)) == SECTIONS


def test_of_a_policy_it_tells_the_stages_that_had_a_part_and_no_others(run: Path) -> None:
    text = run_card(run)
    assert "sft (sft), rm (reward_model), grpo (grpo)" in text
    assert "unused" not in text
    assert "not of this model" not in text
    assert "p.jsonl" not in text.replace("demos.jsonl", "")


def test_of_a_reward_model_it_tells_that_one(run: Path) -> None:
    text = run_card(run, "rm")
    assert "made by | sft (sft), rm (reward_model)" in text
    assert "grpo" not in section(text, "Training")
    meta = metadata(text)
    assert meta["pipeline_tag"] == "text-classification"
    assert "reward-model" in meta["tags"]
    [result] = meta["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.71}


def test_alarms_come_with_figure_limit_cure_and_sample(run: Path) -> None:
    text = section(run_card(run), "Failures found")
    assert "**reward_hacking** in stage grpo: the reward rises" in text
    assert "-0.210 \\[-0.310, -0.110\\] n=88; the limit is -0.030" in text
    assert "may help (shown against mode_collapse only): `grpo.settings.beta=0.074`" in text
    assert "length_bias by length_bias: alarm in sft, clear in grpo" in text
    assert "0.160 would have been seen" in text
    assert "sycophancy by agreement: needs opinions (stage grpo)" in text
    watched = text[text.index("To watch:") : text.index("Looked for and not found")]
    assert "sycophancy, stage grpo: agreeing pays" in watched


def test_the_trained_reward_and_the_truth_are_marked_as_such(run: Path) -> None:
    text = section(run_card(run), "Evaluation")
    assert "| gold (the simulation's truth) | rm (trained on) |" in text
    assert "says nothing of quality by itself" in text


def _asked(model: str, name: str) -> dict[str, Any]:
    return {"builtin": "ai", "name": name, "options": {"model": model, "url": "http://localhost"}}


def _of_pattern(pattern: str, name: str) -> dict[str, Any]:
    return {"builtin": "regex", "name": name, "options": {"pattern": pattern}}


@pytest.mark.parametrize(
    ("trained", "same", "other"),
    [
        (_of_pattern("yes", "own"), _of_pattern("yes", "twin"), _of_pattern("no", "apart")),
        (_asked("one-7b", "own"), _asked("one-7b", "twin"), _asked("two-70b", "apart")),
    ],
)
def test_a_judge_of_other_options_is_not_what_was_trained_on(run: Path, trained, same, other):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"][3]["reward"] = [trained]
    recipe["compare"]["rewards"] = [other, same]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    compared = json.loads((run / "comparison.json").read_text())
    compared["columns"][:2] = ["apart", "twin"]
    (run / "comparison.json").write_text(json.dumps(compared))
    text = section(run_card(run), "Evaluation")
    assert "| apart | twin (trained on) |" in text


def test_labels_on_another_version_of_a_judge_leave_it_to_be_calibrated(run: Path) -> None:
    file = next(run.glob("stages/*-grpo/stage.json"))
    info = json.loads(file.read_text())
    info["judges"]["ai"]["version"] = "another"
    file.write_text(json.dumps(info))
    assert "how far ai agrees with people" in run_card(run)


def test_a_gate_says_which_figure_decided(run: Path) -> None:
    text = section(run_card(run), "Gates")
    assert "| win_rate >= 0.55" not in text  # escaped: > could be a tag's end
    assert "win_rate &gt;= 0.55 | grpo | **failed** | 0.580 \\[0.510, 0.650\\] n=120" in text
    assert "lower end counts" in text


def test_the_card_is_of_the_policy_that_is_kept(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "on_fail": "previous"}))
    text = run_card(run)
    assert "| made by | sft (sft), unused (dpo) |" in section(text, "What it is")
    assert (
        "A gate held `grpo` back; this model is kept in its place: the lower end is below" in text
    )
    own = run_card(run, "grpo")
    assert "A gate held this model back; `unused` is kept in its place: the lower end" in own
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "on_fail": "stop"}))
    assert "held" not in run_card(run).partition("\n## ")[0]


def test_judges_have_version_rules_and_calibration(run: Path) -> None:
    text = section(run_card(run), "Labellers and judges")
    assert "AI judge" in text
    assert SHA["f"] in text
    assert "Be honest. Rule 41." in text
    assert "agreement with people | 0.770 \\[0.660, 0.860\\] n=73" in text
    assert "31 people, paid by the hour" in text
    assert "how far rm agrees with people" in run_card(run)
    assert "how far ai agrees with people" not in run_card(run)


def test_the_members_of_a_panel_are_named(run: Path) -> None:
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    options = raw["stages"][-1]["observe"][0]["options"]
    del options["model"]
    options["panel"] = [{"model": "one-7b"}, {"model": "two-7b"}]
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw))
    text = section(run_card(run), "Labellers and judges").replace("\\", "")
    assert "model one-7b + two-7b" in text


def test_labels_of_a_store_and_constitutions_come_from_their_records(run: Path) -> None:
    assert "Labels in the store" not in run_card(run)
    lines = [{"who": who, "kind": "person", "labels": 20} for who in ("anna-7", "ben-8")]
    bits = {"value": 0.42, "low": 0.32, "high": 0.52, "n": 40}
    sums = [
        {"who": "all", "kind": "person", "labels": 41, "pairs": 38, "money": 12.3, "bits": bits}
    ]
    write(run / "label-costs-store.json", {"lines": lines, "sums": sums})
    kept = {"/home/me/mine.yaml": {"version": "2+abc", "principles": {}}}
    write(run / "stages" / "04-grpo" / "constitutions.json", kept)
    text = section(run_card(run), "Labellers and judges").replace("\\", "")
    assert "| person | 2 | 41 | 38 | 12.3 | 0.420 [0.320, 0.520]" in text
    assert "grpo: mine.yaml, version `2+abc`" in text
    assert "anna-7" not in text
    assert "/home/me" not in text


def test_how_far_labellers_agree_and_were_believed_is_told_without_their_names(run: Path) -> None:
    weights = {"anna-7": 0.91, "ben-8": 0.62, "cleo-9": 0.83}
    said = {
        "method": "dawid_skene", "votes": 451, "labellers": 3, "contrary": 0,
        "alpha": {"value": 0.414, "low": 0.312, "high": 0.502, "n": 97},
        "weights": {name: {"value": w, "low": w - 0.1, "high": w + 0.05, "n": 9}
                    for name, w in weights.items()},
        "flags": [["length", "anna-7 prefers the longer one"], ["speed", "anna-7 is fast"],
                  ["length", "ben-8 too"]],
        "notes": ["labeller 'anna-7' ..."],
    }  # fmt: skip
    write(run / "stages" / "03-rm" / "labels.json", {"/home/me/labels.db": said})
    text = section(run_card(run), "Labellers and judges").replace("\\", "")
    assert "Labels of labels.db, from which rm learned" in text
    assert "alpha of pairs (1 is agreement throughout, 0 is chance): 0.414 [0.312, 0.502]" in text
    assert "451 comparisons by 3 labellers, settled by dawid_skene" in text
    assert "0.620 to 0.910, median 0.830; 0 count against" in text
    assert "2 length, 1 speed" in text
    assert "anna-7" not in text
    assert "/home/me" not in text


def test_evals_of_the_model_by_its_folder_are_its_evals(run: Path) -> None:
    file = run / "evals" / "grpo" / "xstest.json"
    raw = json.loads(file.read_text())
    write(file, raw | {"model": "/anywhere/made/stages/04-grpo/model"})
    assert "over_refusal" in section(run_card(run), "Evaluation")
    write(file, raw | {"model": "another"})
    assert "over_refusal" not in section(run_card(run), "Evaluation")


def test_only_the_score_that_is_known_to_go_down_is_said_to(run: Path) -> None:
    """Beside a harm a suite has the share that is right."""
    (file,) = run.glob("evals/grpo/xstest.json")
    found = json.loads(file.read_text())
    found["higher_is_better"] = False
    found["scores"]["right"] = {"value": 0.86, "low": 0.81, "high": 0.9, "n": 250}
    file.write_text(json.dumps(found))
    told = section(run_card(run), "Evaluation")
    assert "over_refusal (lower is better)" in told
    assert "right (lower" not in told


def test_addresses_and_places_of_a_recipe_stay_there(run: Path) -> None:
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    place = "/home/someone/prompts.jsonl"
    raw["stages"][3]["data"] = [{"path": place}]
    raw["stages"][3]["reward"][0]["options"] = {"url": "http://10.0.0.7", "strict": True}
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"][f"grpo: {place}"] = manifest["data"].pop("grpo: prompts.jsonl")
    write(run / "manifest.json", manifest)
    text = run_card(run)
    assert "someone" not in text
    assert "10.0.0.7" not in text
    assert "options.strict True" in text


def test_a_hash_of_rows_is_not_called_a_files(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["inputs"] = {
        "sft": {"demos.jsonl": {"": SHA["a"]}},
        "rm": {"pairs.jsonl": {"1.jsonl": SHA["a"], "2.jsonl": SHA["b"]}},
    }
    write(run / "manifest.json", manifest)
    text = section(run_card(run), "Data")
    rows = f"`{SHA['c']}` (of the rows as read"
    assert f"| sft | demos.jsonl | 311 | cc-by-4.0 | `{SHA['a']}` |" in text
    assert f" | {rows}; those of its 2 files are in manifest.json) |" in text
    assert f" | {rows}) |" in text


def test_where_the_base_lies_on_the_machine_is_not_told(tmp_path: Path) -> None:
    run = build(tmp_path / "made")
    file = run / "stages" / "01-sft" / "stage.json"
    info = json.loads(file.read_text())
    write(file, info | {"start": {"from": "/home/someone/secret/base", "sha256": SHA["b"]}})
    text = run_card(run)
    assert "starts from | base (SHA-256" in text
    assert "someone" not in text
    assert str(tmp_path) not in text


# -- metadata -------------------------------------------------------------------------------------


def test_the_hub_reads_the_metadata(run: Path) -> None:
    meta = metadata(run_card(run))
    [index] = meta.pop("model-index")
    assert meta == {
        "base_model": "org/start-model",
        "datasets": ["org/demos"],
        "language": ["en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["gnomon", "rlhf", "sft", "grpo"],
    }
    assert index["name"] == "made-grpo"
    [result] = index["results"]
    assert result["dataset"] == {"name": "xstest", "type": "xstest"}
    [metric] = result["metrics"]
    assert (metric["type"], metric["value"]) == ("over_refusal", 0.14)


def test_what_is_not_stated_is_not_in_the_metadata(silent: Path) -> None:
    meta = metadata(run_card(silent))
    assert not {"license", "base_model", "datasets", "language"} & set(meta)


def test_a_licence_that_the_hub_does_not_know_is_other(tmp_path: Path) -> None:
    run = build(tmp_path / "made", {"licence": "Example Research Licence 2"})
    meta = metadata(run_card(run))
    assert meta["license"] == "other"
    assert meta["license_name"] == "Example Research Licence 2"


# -- nothing that no record holds -----------------------------------------------------------------

NUMBER = re.compile(r"-?(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[-+]?\d+)?")
PROSE = {
    # of formulas, laws and methods that the card names
    *("2020", "2.1", "2", "4", "6", "2024", "1689", "18", "2025", "3.2", "1", "2.2"),
    *("256", "95", "0"),
}


def leaves(raw: Any) -> Iterator[Any]:
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield key
            yield from leaves(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from leaves(value)
    else:
        yield raw


def records(run: Path) -> Iterator[Any]:
    """Every key and value in the run's records."""
    for file in sorted(run.rglob("*.json")):
        yield from leaves(json.loads(file.read_text()))
    yield from leaves(yaml.safe_load((run / "recipe.yaml").read_text()))
    yield from (p.name for p in run.rglob("*"))


def shown(value: Any) -> set[str]:
    """How a card may show a value."""
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, str):
        return set(NUMBER.findall(value))
    forms = {str(value), number(float(value)), f"{value:,}", f"{value:.3f}", count(float(value))}
    forms |= set(NUMBER.findall(duration(float(value))))
    forms |= {f"{value:.1f}", f"{value:.0f}", measured(Interval(float(value)))}
    return forms | {f.lstrip("-") for f in forms} | {f"-{f}" for f in forms}


def derived() -> set[str]:
    """What the card works out by the formulas that it names, worked out here by hand."""
    size = 1_234_000
    sft, rm, grpo = (full_pass(size, size, tokens) for tokens in (7100, 4300, 5200))
    assert sft == 6 * size * 7100
    flops = [sft, rm, grpo, sft + grpo, sft + rm + grpo, 5.5e19 / 3]
    joules = 3 * 55.25 * 8.0
    energies = {number(55.25 * 8.0), number(joules), f"{joules / 3.6e9:.2g}"}
    # what each stage bought and cost: rm is counted with grpo, and all three together
    wh = {f"{n * 55.25 * 8.0 / 3600:.3g}" for n in (1, 2, 3)}
    tokens = {"9 500", "16.6"}  # 4300 + 5200, and with 7100 in thousands
    times = {n for k in (2, 3) for n in NUMBER.findall(duration(k * 55.25))}
    return {flop(value) for value in flops} | energies | wh | tokens | times


def test_every_number_in_a_card_is_in_a_record_or_comes_from_a_named_formula(run: Path) -> None:
    known = PROSE | derived()
    for value in records(run):
        known |= shown(value)
    text = run_card(run).replace("\\", "")
    strange = {n for n in NUMBER.findall(text) if n not in known and n.lstrip("-") not in known}
    assert strange == set()


def test_a_number_from_nowhere_would_be_noticed(run: Path) -> None:
    known = PROSE | derived()
    for value in records(run):
        known |= shown(value)
    assert "0.8317" not in known


def test_what_nobody_stated_is_said_to_be_missing(silent: Path) -> None:
    text = run_card(silent)
    for key in ("provider", "licence", "base_licence", "intended_uses", "base_training_flop"):
        assert f"`card.{key}`" in section(text, "What is missing")
    assert "the licence of demos.jsonl" in text
    assert "Example Ltd" not in text
    assert "| provider | *not stated* |" in text


# -- compute --------------------------------------------------------------------------------------


def test_the_rule_of_one_third_uses_the_base_or_its_substitute(run: Path) -> None:
    assert f"{flop(5.5e19 / 3)} FLOP. The modification does not pass" in run_card(run)
    other = build(run.parent / "other", {"base_systemic_risk": True})
    assert f"{flop(1e25 / 3)} FLOP" in run_card(other)


def test_it_passes_where_the_updates_alone_are_more(tmp_path: Path) -> None:
    run = build(tmp_path / "made", {"base_training_flop": 1e10})
    assert "**The modification passes it**" in run_card(run)


def test_it_is_undecided_where_a_stage_noted_nothing(silent: Path) -> None:
    file = silent / "stages" / "01-sft" / "stage.json"
    info = json.loads(file.read_text())
    del info["compute"]
    write(file, info)
    text = section(run_card(silent), "Compute and energy")
    assert "does not decide" in text
    assert "for want of a record: sft" in text


def test_energy_is_measured_where_a_meter_was_read_and_unknown_without_power(silent: Path) -> None:
    text = section(run_card(silent), "Compute and energy")
    assert "The energy of the whole is not known." in text
    for file in silent.glob("stages/*/stage.json"):
        write(file, json.loads(file.read_text()) | {"joules": {"rapl": 120.0, "rapl:1": 3.0}})
    text = section(run_card(silent), "Compute and energy")
    assert "processors measured (rapl)" in text
    assert "In all 369 J" in text


# -- hostile text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        HOSTILE,
        "<img src=x onerror=alert(1)>",
        "[a](http://x.example)",
        "![a][b]\n\n[b]: http://x.example",
        "<http://x.example>",
        "https://x.example www.x.example",
        "a\n\n# b\n\n- c\n\n1. d\n\n> e\n\n---\n\n    f",
        "***x*** __y__ ~~z~~ `w` ``v` $u$",
        "&lt;script&gt; &#60;b&#62;",
        "x | y | z",
        "\u202eabc\u200b\u2066",
        "===",
        "- x",
        "1. x",
        "+ x",
        "# x",
        "---",
    ],
)
def test_text_is_shown_as_it_is(raw: str) -> None:
    seen = html(f"before {md.text(raw)}") + html(md.text(raw)) + html(f"- {md.text(raw)}")
    tags = set(re.findall(r"<\s*/?\s*([a-z0-9]+)", seen))
    assert tags <= {"p", "ul", "li"}
    assert "href" not in seen
    kept = "".join(c for c in raw if c.isalnum() and ord(c) < 128)
    shown = re.sub(r"<[^>]*>|&\w+;|&#\d+;", "", html(md.text(raw)))
    if "&" not in raw:
        assert kept in "".join(c for c in shown if c.isalnum())


def test_what_is_not_seen_does_not_help_to_leave_a_block() -> None:
    shown = html(md.block("a\n`\u200b`\u200b`\n</code><b>x</b>"))
    assert shown.count("<pre>") == 1
    assert "<b>" not in shown


def test_a_licence_cannot_end_the_metadata(tmp_path: Path) -> None:
    run = build(tmp_path / "made", {"licence": "x\n---\n# no \u202e", "model_name": HOSTILE})
    meta = metadata(run_card(run))
    assert meta["license_name"] == "x --- # no"
    assert headings(run_card(run)) == SECTIONS


def test_a_cell_of_a_table_stays_one_cell() -> None:
    table = html(md.table(["a", "b"], [(md.text(HOSTILE), md.code("x|y`z"))]))
    assert table.count("<td>") == 2
    assert "<script" not in table
    assert "<img" not in table


def test_a_block_of_code_cannot_be_left() -> None:
    raw = "echo\n```\n</code><script>\n~~~~\n````"
    shown = html(md.block(raw, "sh"))
    assert shown.count("<pre>") == 1
    assert "<script" not in shown


def test_hostile_names_and_answers_reach_no_page(tmp_path: Path) -> None:
    run = build(tmp_path / "made", STATED | {"provider": HOSTILE, "limitations": HOSTILE})
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"] |= {f"grpo: {HOSTILE}": {"sha256": HOSTILE, "rows": 4}}
    manifest["command"] = HOSTILE
    manifest["versions"] |= {HOSTILE: HOSTILE}
    write(run / "manifest.json", manifest)
    raw = recipe(STATED | {"provider": HOSTILE})
    raw["stages"][3]["settings"] = {HOSTILE: HOSTILE}
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    text = run_card(run)
    shown = html(text)
    allowed = {"p", "h1", "h2", "strong", "em", "code", "pre", "ul", "li", "table", "thead", "tr"}
    assert set(re.findall(r"<\s*/?\s*([a-z0-9]+)", shown)) <= allowed | {"tbody", "th", "td"}
    assert "href" not in shown
    assert "src=" not in shown
    assert not re.search("[\u202e\x1b]", text)
    assert headings(text) == SECTIONS
    assert metadata(text)["license"] == "apache-2.0"


# -- runs that are not whole ----------------------------------------------------------------------


def test_an_empty_run_has_a_card_that_says_so(tmp_path: Path) -> None:
    run = tmp_path / "made"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe()), encoding="utf-8")
    text = run_card(run)
    assert "**No stage of the run has left a model.**" in text
    assert "Nothing was measured on held-out questions." in text
    assert "not audited" in text
    ModelCard(text)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run directory"):
        run_card(tmp_path)


def test_an_unknown_stage_is_refused_with_the_nearest(run: Path) -> None:
    with pytest.raises(DataError, match=r"no stage 'grp'.*grpo"):
        run_card(run, "grp")


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "audit.json",
        "gates.json",
        "recipe.yaml",
        "comparison.json",
        "stages/04-grpo/stage.json",
        "stages/04-grpo/model/config.json",
        "stages/04-grpo/evals.json",
        "evals/grpo/xstest.json",
        "calibrations/ai.json",
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut", "list"])
def test_damaged_records_are_named_and_the_rest_is_shown(run: Path, name: str, how: str) -> None:
    file = run / name
    text = file.read_text()
    if how == "gone":
        file.unlink()
    else:
        file.write_text(text[: len(text) // 2] if how == "cut" else "[1, 2]")
    shown = run_card(run, "grpo")
    assert headings(shown) == SECTIONS
    ModelCard(shown)
    if how == "list" or (how == "cut" and name.endswith(".json")):
        assert Path(name).name in section(shown, "What is missing")


def test_records_of_another_version_have_fields_of_other_types(run: Path) -> None:
    for file in [*run.glob("stages/*/stage.json"), run / "manifest.json"]:
        raw = json.loads(file.read_text())
        write(file, {key: 3 if isinstance(v, dict) else {"a": 1} for key, v in raw.items()})
    assert headings(run_card(run, "grpo")) == SECTIONS


def test_a_card_section_of_another_version_is_named(tmp_path: Path) -> None:
    run = build(tmp_path / "made", {"licence": "mit", "colour": "red"})
    text = run_card(run)
    assert "card.colour" in section(text, "What is missing")
    assert "| licence | *not stated* |" in text


def test_an_unfinished_run_says_so(run: Path) -> None:
    file = run / "stages" / "04-grpo" / "stage.json"
    write(file, json.loads(file.read_text()) | {"status": "failed", "error": "out of memory"})
    text = run_card(run)
    assert "**The run has not ended: grpo is failed.**" in text
    assert "failed: out of memory" in text


# -- files and the command ------------------------------------------------------------------------


def test_cards_lie_in_the_run_and_in_every_model(run: Path) -> None:
    made = [str(file.relative_to(run)) for file in write_cards(run)]
    assert made == [
        *(f"stages/{name}/model/README.md" for name in ("01-sft", "02-unused", "03-rm", "04-grpo")),
        "model_card.md",
    ]
    readme = (run / "stages" / "03-rm" / "model" / "README.md").read_text()
    assert "# made-rm" in readme
    assert (run / "model_card.md").read_text() == run_card(run)


def test_the_command_writes_prints_and_takes_statements(run: Path, tmp_path: Path) -> None:
    call = CliRunner().invoke
    assert call(app, ["card", str(run)]).exit_code == 0
    assert (run / "model_card.md").is_file()
    printed = call(app, ["card", str(run), "--stage", "rm"])
    assert "# made-rm" in printed.stdout
    stated = tmp_path / "card.yaml"
    stated.write_text("provider: Another Ltd\n")
    output = tmp_path / "out.md"
    done = call(app, ["card", str(run), "--statements", str(stated), "-o", str(output)])
    assert done.exit_code == 0
    assert "Another Ltd" in output.read_text()
    assert "Example Ltd" not in output.read_text()
    stated.write_text("providr: x\n")
    wrong = call(app, ["card", str(run), "--statements", str(stated)])
    assert wrong.exit_code == 1
    assert "providr" in str(wrong.exception)
    assert "provider" in str(wrong.exception)


def test_a_card_is_the_same_whenever_it_is_made(run: Path) -> None:
    first = run_card(run)
    moved = run.parent / "elsewhere" / "made"
    shutil.copytree(run, moved)
    assert run_card(moved) == first
