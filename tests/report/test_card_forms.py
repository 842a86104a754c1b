"""The forms of the EU and the UK: every field answered, from records and statements alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from card_world import HOSTILE, SHA, STATED, build, recipe, write
from test_card import html
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.recipe.card import CardSpec, SourceCard
from gnomon.report.compute import Training, energy, full_pass, third, training
from gnomon.report.eu_form import EU_FORM
from gnomon.report.facts import read_facts
from gnomon.report.forms import Answer, Form, answers, form_json, form_markdown
from gnomon.report.uk_form import UK_FORM

FORMS = {"eu": EU_FORM, "uk": UK_FORM}
EVERYTHING = {
    **dict.fromkeys(CardSpec.model_fields, "stated"),
    "base_model": "org/base",
    "base_training_flop": 1e20,
    "base_systemic_risk": False,
    "watts_per_cpu": 9.0,
    "watts_per_gpu": 300.0,
    "languages": ["en"],
    "data": {
        name: {**dict.fromkeys(SourceCard.model_fields, "told"), "kind": "public", "hub": "a/b"}
        for name in ("demos.jsonl", "p.jsonl", "pairs.jsonl", "prompts.jsonl")
    },
}


def answered(form: Form, run: Path) -> dict[str, Answer]:
    return {field.number: answer for field, answer in answers(form, read_facts(run))}


def bare(folder: Path) -> Path:
    """A run that stopped before it did anything."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe()), encoding="utf-8")
    return folder


def test_the_eu_form_has_the_sections_and_fields_of_the_code() -> None:
    sections = list(dict.fromkeys(field.section for field in EU_FORM.fields))
    assert sections == [
        "General information",
        "Model properties",
        "Methods of distribution and licences",
        "Use",
        "Training process",
        "Data used for training, testing and validation",
        "Computational resources (during training)",
        "Energy consumption (during training and inference)",
    ]
    numbers = [field.number for field in EU_FORM.fields]
    assert len(set(numbers)) == len(numbers) == 39
    readers = {field.number: field.readers for field in EU_FORM.fields}
    assert readers["7.3"] == ("NCAs",)  # an order of magnitude
    assert readers["7.4"] == ("AIO",)  # two significant figures
    assert all("DPs" not in readers[n] for n in ("7.1", "7.5", "8.1", "8.2", "8.3", "8.4"))


def test_the_uk_form_has_a_field_of_each_principle() -> None:
    principles = {int(field.section.split()[0]) for field in UK_FORM.fields}
    assert principles == set(range(1, 14))


@pytest.mark.parametrize("name", FORMS)
def test_of_an_empty_run_nothing_is_filled(tmp_path: Path, name: str) -> None:
    found = answered(FORMS[name], bare(tmp_path / "made"))
    filled = [number for number, answer in found.items() if answer.state == "filled"]
    assert filled == []


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("stated", [None, STATED, EVERYTHING])
def test_answers_have_a_source_and_a_value_where_they_are_not_missing(
    tmp_path: Path, name: str, stated: dict[str, object] | None
) -> None:
    for number, answer in answered(FORMS[name], build(tmp_path / "made", stated)).items():
        assert answer.source, number
        assert bool(answer.value) == (answer.state != "missing"), number
        assert bool(answer.lacks) == (answer.state == "partial"), number


def test_with_everything_stated_the_eu_form_lacks_no_field(tmp_path: Path) -> None:
    found = answered(EU_FORM, build(tmp_path / "made", EVERYTHING))
    assert [n for n, answer in found.items() if answer.state == "missing"] == []


def test_values_come_from_the_records(tmp_path: Path) -> None:
    found = answered(EU_FORM, build(tmp_path / "made", STATED))
    assert found["1.1"] == Answer("filled", "Example Ltd", "recipe: card.provider")
    assert SHA["a"] in found["1.3"].value
    assert found["1.6"].value == f"org/start-model (SHA-256 {SHA['b']})"
    assert found["2.5"].value == "1 to 500M parameters"
    assert found["2.6"].value == "1,234,000"
    assert "sft, demos.jsonl: 311 rows" in found["6.4"].value
    assert "977" not in found["6.4"].value  # of a stage that had no part in it
    assert found["6.2"].state == "partial"
    assert found["6.2"].lacks == "for pairs.jsonl, prompts.jsonl"
    assert found["7.1"].value == "less than 1 month"
    assert found["7.3"].value == "10^11 FLOP"
    updates = full_pass(1_234_000, 1_234_000, 7100 + 5200)
    assert found["7.4"].value.startswith(f"{updates:.2e} FLOP in updates")
    assert "1 326 J" in found["8.1"].value
    assert found["8.3"].value == f"{2 * 1_234_000 * 100_000:.2e} FLOP"


def test_hashes_fill_what_the_uk_code_asks_for_them(tmp_path: Path) -> None:
    found = answered(UK_FORM, build(tmp_path / "made", STATED))
    assert found["8.1.2"].state == "filled"
    assert SHA["a"] in found["8.1.2"].value
    assert found["3.1"].state == "missing"
    assert "alarms: length_bias, reward_hacking" in found["10.2.1"].value


def test_json_and_page_say_the_same_and_count(tmp_path: Path) -> None:
    facts = read_facts(build(tmp_path / "made", STATED))
    plain, page = form_json(EU_FORM, facts), form_markdown(EU_FORM, facts)
    states = [field["state"] for field in plain["fields"]]
    assert plain["counts"] == {s: states.count(s) for s in ("filled", "partial", "missing")}
    assert sum(plain["counts"].values()) == len(EU_FORM.fields)
    for field in plain["fields"]:
        assert f"| {field['number']} | {field['title']} |" in page
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("name", FORMS)
def test_hostile_statements_stay_text(tmp_path: Path, name: str) -> None:
    run = build(tmp_path / "made", dict.fromkeys(("provider", "limitations", "contact"), HOSTILE))
    write(run / "audit.json", {"findings": [{"name": HOSTILE, "stage": "grpo", "status": "alarm"}]})
    shown = html(form_markdown(FORMS[name], read_facts(run)))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "href" not in shown


def test_the_command_prints_and_writes_forms(tmp_path: Path) -> None:
    run, call = build(tmp_path / "made", STATED), CliRunner().invoke
    page = call(app, ["card", str(run), "--form", "eu"])
    assert page.exit_code == 0
    assert page.stdout.startswith("# EU Model Documentation Form")
    printed = call(app, ["card", str(run), "--form", "uk", "--json"])
    assert json.loads(printed.stdout)["form"] == "uk"
    file = tmp_path / "eu.json"
    assert call(app, ["card", str(run), "--form", "eu", "-o", str(file)]).exit_code == 0
    assert json.loads(file.read_text())["model"] == "made-grpo"
    assert call(app, ["card", str(run), "--json"]).exit_code == 1


# -- the formulas ---------------------------------------------------------------------------------


def test_all_of_a_model_trained_is_six_flop_a_parameter_and_token() -> None:
    assert full_pass(1000, 1000, 50) == 6 * 1000 * 50
    assert full_pass(1000, 10, 50) == 4 * 1000 * 50 + 2 * 10 * 50


@pytest.mark.parametrize(
    ("updates", "everything", "uncounted", "passes"),
    [
        (1e19, 1e19, (), False),
        (4e22, 5e22, (), True),
        (3e22, 4e22, (), None),  # it depends on what is counted
        (1e19, 1e19, ("sft",), None),
        (4e22, 4e22, ("sft",), True),
    ],
)
def test_the_third_is_decided_only_where_what_was_counted_decides_it(
    updates: float, everything: float, uncounted: tuple[str, ...], passes: bool | None
) -> None:
    done = Training(updates, everything, uncounted)
    assert third(done, None, None).passes is passes
    assert third(done, 1e23, None).passes is passes
    assert third(done, None, None).threshold == pytest.approx(1e23 / 3)
    assert third(done, None, True).threshold == pytest.approx(1e25 / 3)


def test_nothing_counted_decides_nothing() -> None:
    assert third(Training(0.0, 0.0), None, None, counted=False).passes is None


def test_only_stages_whose_weights_it_continues_count_as_updates(tmp_path: Path) -> None:
    facts = read_facts(build(tmp_path / "made"))
    done = training(facts.stages, facts.chain)
    assert facts.chain == ("sft", "grpo")
    assert done.everything - done.updates == full_pass(1_234_000, 1_234_000, 4300)


def test_cards_without_a_meter_or_a_stated_power_leave_the_energy_open(tmp_path: Path) -> None:
    view = read_facts(build(tmp_path / "made")).stages[0]
    assert energy(view, 0, 8.0, None).joules == pytest.approx(8.0 * 55.25)
    assert energy(view, 2, 8.0, None).joules is None
    assert energy(view, 2, 8.0, 300.0).joules == pytest.approx(8 * 55.25 + 2 * 300 * 61.5)
    assert energy(view, 0, None, None).joules is None
