"""``gnomon plan``: text, JSON, picture and recipe; what is wrong is said in words; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import plan_world as pw
import pytest
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.evals.asking import Ask, Unanswered
from gnomon.evals.subject import Model
from gnomon.plan.answers import make
from gnomon.plan.facts import read_facts
from gnomon.plan.likelihood import off_policy
from gnomon.plan.methods import STRANGE
from gnomon.plan.start_model import is_tuned
from gnomon.recipe.load import load_recipe


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["plan", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))


ASKED = ("--model", "Qwen/Qwen3-0.6B", "--hardware", "1xH100")


def test_three_answers_first_then_why(pairs: Path) -> None:
    out = pairs.parent / "made.yaml"
    said = run(pairs, *ASKED, "--out", out).splitlines()
    assert said[0].startswith("Method  dpo")
    assert said[1].startswith("Memory  ")
    assert "(H100)" in said[1]
    assert said[2].startswith("Cost    ")
    assert "on 1 x H100" in said[2]
    text = "\n".join(said)
    for words in ("Why: Pairs are what DPO is for", "Rafailov", "Instead: rm", "More data:"):
        assert words in text
    recipe = load_recipe(out)
    assert recipe.name == "made"
    assert [stage.algorithm for stage in recipe.stages] == ["dpo"]


def test_json_has_everything_with_its_unit(pairs: Path) -> None:
    out = pairs.parent / "made.yaml"
    found: dict[str, Any] = json.loads(run(pairs, *ASKED, "--json", "--out", out))
    stage = found["memory"]["stages"]["dpo"]
    peak = sum(stage["always_bytes"].values()) + stage["instants_bytes"][stage["worst_instant"]]
    assert stage["peak_bytes"] == pytest.approx(peak, rel=0.03)
    assert found["memory"]["peak_bytes"] == stage["peak_bytes"]
    assert found["cost"]["euros"] == pytest.approx(found["cost"]["stages"]["dpo"]["euros"])
    assert found["method"]["rule"] == "pairs"
    assert found["data"]["facts"]["pairs"] == 300
    assert found["recipe"]["stages"][0]["algorithm"] == "dpo"
    assert {"*_bytes", "euros, *_euros"} <= found["units"].keys()
    assert out.is_file()


def test_a_picture(pairs: Path) -> None:
    image = pairs.parent / "plan.png"
    run(pairs, *ASKED, "--out", pairs.parent / "made.yaml", "--image", image)
    assert image.read_bytes().startswith(b"\x89PNG")
    assert image.stat().st_size > 20_000


def test_another_file_is_never_overwritten(pairs: Path) -> None:
    out = pairs.parent / "made.yaml"
    run(pairs, *ASKED, "--out", out)
    run(pairs, *ASKED, "--out", out)  # the same again
    out.write_text("name: mine\n")
    with pytest.raises(ConfigError, match="there already and differs"):
        run(pairs, *ASKED, "--out", out)
    assert out.read_text() == "name: mine\n"
    out.write_bytes(b"\xff\x00")  # no text at all
    with pytest.raises(ConfigError, match="there already and differs"):
        run(pairs, *ASKED, "--out", out)
    assert out.read_bytes() == b"\xff\x00"


WRONG = {
    "model": ("--model", "Qwen/Qwen3-0.7B", "Did you mean"),
    "our own model": ("--model", "tunnle", "Did you mean tunnel"),
    "hardware": ("--hardware", "8xH10", "Did you mean"),
    "file": ("--held-out", "nowhere.jsonl", "nowhere.jsonl"),
    "budget": ("--budget", "0", "too small for anything"),
    "no number": ("--budget", "inf", "--budget inf: give euros"),
    "constitution": ("--constitution", "nowhere.yaml", "nowhere.yaml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_words(pairs: Path, case: str) -> None:
    option, value, says = WRONG[case]
    words = [*ASKED, "--out", str(pairs.parent / "made.yaml")]
    if option in words:
        words[words.index(option) + 1] = value
    else:
        words += [option, value]
    with pytest.raises(GnomonError, match=says):
        run(pairs, *words)
    assert not (pairs.parent / "made.yaml").exists()


def test_a_price_of_no_hardware(pairs: Path) -> None:
    with pytest.raises(ConfigError, match="--price is of the hardware"):
        run(pairs, "--model", "Qwen/Qwen3-0.6B", "--price", 2)


JUDGED = ("--model", "Qwen/Qwen3-4B", "--hardware", "1xH100", "--json", "--judge")


def test_judgements_are_paid_for_or_said_not_to_be(tmp_path: Path) -> None:
    asked = pw.write(tmp_path / "prompts.jsonl", pw.prompts(400))

    def cost(*words: object) -> dict[str, Any]:
        made = run(asked, *JUDGED, *words, "--out", tmp_path / f"{'-'.join(map(str, words))}.yaml")
        found: dict[str, Any] = json.loads(made)
        return {"all": found["cost"]["euros"], **found["cost"]["stages"]["compared"]}

    unknown = cost("a-model")
    assert unknown["unpriced"] == 400 * 6  # every pair of 4 answers
    assert unknown["all"] is unknown["ai_label_euros"] is None
    free, paid = (cost("a-model", "--price-input", n, "--price-output", 4 * n) for n in (0, 2))
    assert free["ai_label_euros"] == 0.0
    assert paid["all"] == pytest.approx(free["all"] + paid["ai_label_euros"])
    recipe = load_recipe(tmp_path / "a-model---price-input-2---price-output-8.yaml")
    assert recipe.stages[0].reward[0].options["price_output"] == 8.0
    people, dearer = cost("people"), cost("people", "--price-label", 1.5)
    assert people["human_label_euros"] == pytest.approx(400 * 3 * 0.60)
    assert dearer["human_label_euros"] == pytest.approx(400 * 3 * 1.5)
    with pytest.raises(ConfigError, match="2,400 judgements"):
        run(asked, *JUDGED, "a-model", "--budget", 50, "--out", tmp_path / "budget.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--judge", "a-model", "--price-input", 2), "give both"),
        (("--judge", "people", "--price-input", 2, "--price-output", 2), "at an endpoint"),
        (("--price-label", 2), "--judge people"),
        (("--judge", "people", "--price-label", "inf"), "--price-label 0.60"),
    ],
)
def test_prices_of_nobody(pairs: Path, words: tuple[object, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(pairs, *ASKED, *words, "--out", pairs.parent / "made.yaml")


def test_a_mixed_file(tmp_path: Path) -> None:
    mixed = pw.write(tmp_path / "mixed.jsonl", [*pw.pairs(5), *pw.demonstrations(5)])
    with pytest.raises(DataError, match=r"preferences in rows 1-5; demonstrations in rows 6-10"):
        run(mixed, *ASKED)


def test_a_model_may_be_a_folder_or_a_configuration(pairs: Path, tiny_folder: Path) -> None:
    folder = make([pairs], str(tiny_folder))
    config = make([pairs], str(tiny_folder / "config.json"))
    assert folder.fit.stages[0].job.model.parameters == config.fit.stages[0].job.model.parameters
    assert folder.recipe["model"] == str(tiny_folder.resolve())
    assert folder.recipe["max_length"] <= 256  # its window
    assert make([pairs], "tunnel").recipe["model"] == "tunnel"


@pytest.mark.parametrize(
    ("model", "tuned"),
    [
        ("meta-llama/Llama-3.1-8B", False),
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("google/gemma-3-4b-it", True),
        ("google/gemma-3-4b-pt", False),
        ("Qwen/Qwen3-8B", True),
        ("Qwen/Qwen3-8B-Base", False),
        ("allenai/Llama-3.1-Tulu-3-8B-SFT", True),
    ],
)
def test_who_answers_already(model: str, tuned: bool) -> None:
    assert is_tuned(model, None) is tuned


@pytest.mark.parametrize(("model", "heavy"), [("Qwen/Qwen3-8B", ["torch"]), ("Qwen/Qwen3-9B", [])])
def test_little_is_loaded_and_nothing_before_the_model_is_known(
    pairs: Path, model: str, heavy: list[str]
) -> None:
    """Memory is laid out by the code that lays out a batch, which needs torch; a wrong name does
    not wait for that."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from gnomon.errors import GnomonError\n"
        "from gnomon.plan.answers import make\nfrom gnomon.plan.shown import parts\n"
        f"try:\n    list(parts(make([Path({str(pairs)!r})], {model!r})))\n"
        "except GnomonError:\n    pass\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(heavy)


# -- on or off policy -----------------------------------------------------------------------------


def test_a_models_own_answers_are_on_policy_and_strange_ones_are_not(tmp_path: Path) -> None:
    """Answers that the very model sampled are about as likely as those that it samples again; words
    drawn evenly are not."""
    asked = pw.write(tmp_path / "prompts.jsonl", pw.prompts(32))
    prompts = [group.prompt for group in read_groups(asked).groups]
    answers = Model("tunnel", "tunnel").answer(prompts, Ask(16, temperature=1.0, seed=9))
    own, strange = [], []
    for i, answer in enumerate(answers):
        assert not isinstance(answer, Unanswered)
        text = answer.responses[0].text
        if text.strip():
            own.append({"prompt": pw.question(i), "chosen": text, "rejected": text + " no"})
        odd = " ".join(f"{i * k % 97}" for k in range(1, 12))
        strange.append({"prompt": pw.question(i), "chosen": odd, "rejected": odd + " no"})
    gaps = []
    for name, rows in (("own", own), ("strange", strange)):
        _, files = read_facts([pw.write(tmp_path / f"{name}.jsonl", rows)])
        gaps.append(off_policy("tunnel", files, new_tokens=16))
    assert abs(gaps[0].value) < STRANGE
    assert gaps[1].low > STRANGE


def test_likelihood_needs_answers(tmp_path: Path, tiny_folder: Path) -> None:
    _, files = read_facts([pw.write(tmp_path / "prompts.jsonl", pw.prompts(20))])
    with pytest.raises(ConfigError, match="0 prompts have one"):
        off_policy(str(tiny_folder), files)
