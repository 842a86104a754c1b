"""The recipes of papers, first half: each runs from end to end in the tunnel for a few steps, keeps
a stage only by a gate, and reads its real data in the columns that the hub has them in."""

from __future__ import annotations

import contextlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError, GateClosed
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.runs.audit import GATES
from gnomon.runs.records import STAGE, StageInfo
from gnomon.stages.names import KINDS, policy_stages
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe
from gnomon.tasks.tunnel import generate_prompts, gold_score
from gnomon.tasks.tunnel.demonstrations import write_response
from gnomon.tasks.tunnel.world import seeded

FIELD = Path(__file__).resolve().parents[2] / "recipes" / "field"
NAMES = ["instructgpt", "summarise", "zephyr-tulu", "llama3", "r1"]
HELD_OUT = FIELD / "tunnel-held-out.jsonl"


def trains(stage: StageSpec) -> bool:
    return stage.algorithm not in KINDS


def smaller(recipe: Recipe) -> list[str]:
    """Overrides that leave a tunnel recipe a few steps, rows and tokens, and gates that decide."""
    changes = [
        "compare.prompts.0.options.n=4",
        "compare.size=4",
        "compare.rollout.max_new_tokens=8",
    ]
    for stage in recipe.stages:
        own: list[str] = []
        for key in ("data", "eval_data", "normalise_on", "pretraining"):
            made = [i for i, spec in enumerate(getattr(stage, key)) if "n" in spec.options]
            own += [f"{key}.{i}.options.n=16" for i in made]
        own += ["holdout=0.25"] if stage.holdout else []
        if trains(stage):
            own += ["train.steps=3", "train.epochs=null", "train.batch_size=4", "probes=0"]
            own += ["train.eval_every=0", "train.checkpoint_every=1"]
        if stage.rollout.max_new_tokens == 32:  # not its default: it samples
            own += ["rollout.samples=3", "rollout.max_new_tokens=16"]
        for i, _ in enumerate(stage.train.evals):
            own += [f"train.evals.{i}.options.limit=4"]
        for i, suite in enumerate(stage.settings.get("suites", ())):
            own += [f"settings.suites.{i}.options.limit=4"]
            own += [f"settings.suites.{i}.options.samples=3"] * (suite["suite"] == "best_of_n")
        if stage.on_fail == "stop" or stage.name == "sft":  # nothing is learned in three steps
            own += [f"gates=[{gate.split('>=')[0]} >= -9 (value)]" for gate in stage.gates]
        if "threshold" in stage.settings:
            own += ["settings.threshold=0"]
        if "sync_reference_every" in stage.settings:
            own += ["settings.sync_reference_every=1"]
        changes += [f"{stage.name}.{change}" for change in own]
    return changes


@pytest.mark.walk
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_from_end_to_end_in_the_tunnel(name: str, tmp_path: Path) -> None:
    file = FIELD / f"{name}-tunnel.yaml"
    recipe = load_recipe(file, [f"output={tmp_path}", *smaller(load_recipe(file))])
    with contextlib.suppress(GateClosed):  # nothing is learned, so the last policy may be held back
        run_recipe(recipe, base=FIELD, announce=lambda line: None)
    run = tmp_path / recipe.name
    done = [StageInfo.read_or_empty(f / STAGE) for f in sorted((run / "stages").iterdir())]
    assert [(s.name, s.status) for s in done] == [(s.name, "done") for s in recipe.stages]
    asked = json.loads((run / GATES).read_text(encoding="utf-8"))
    wanted = {s.name: len(s.gates) for s in recipe.stages if s.gates}
    assert {name: len(found) for name, found in asked.items() if name} == wanted
    figures = [result["figure"] for found in asked.values() for result in found]
    assert all(figure is not None for figure in figures), asked  # each was measured
    assert (run / "report.html").is_file()
    assert (run / "comparison.json").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_the_tunnel_has_the_same_stages_and_gates(name: str) -> None:
    def shape(file: Path) -> tuple[Any, ...]:
        recipe = load_recipe(file)
        stages = [(s.name, s.algorithm, s.from_, s.gates, s.on_fail) for s in recipe.stages]
        return stages, recipe.gates

    assert shape(FIELD / f"{name}-tunnel.yaml") == shape(FIELD / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_kept_by_a_gate(name: str) -> None:
    """Its own, or that of an eval stage of it that comes next."""
    recipe = load_recipe(FIELD / f"{name}.yaml")
    for stage, after in zip(recipe.stages, [*recipe.stages[1:], None], strict=True):
        if not trains(stage):
            continue
        looked = after if after is not None and after.algorithm == "eval" else None
        judge = stage if stage.gates or looked is None else looked
        assert judge.gates, stage.name
        assert judge is stage or judge.from_ == stage.name
        policy = stage in policy_stages(recipe, FIELD)
        assert judge.on_fail == ("previous" if policy else "stop"), stage.name
    text = (FIELD / f"{name}.yaml").read_text(encoding="utf-8")
    assert "# What decides:" in text


def test_the_held_out_questions_are_the_worlds_own() -> None:
    """Their gold reward can be worked out, and no training prompt has their problem."""
    rows = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    drawn = {p.id: p for p in generate_prompts(2000, seed=7, split="heldout")}
    prompts = [drawn[row["id"]] for row in rows]
    assert [row["prompt"] for row in rows] == [p.messages[0].content for p in prompts]
    assert len({row["prompt"] for row in rows}) == len(rows) == 200
    scores = [gold_score(p, row["output"]).total for p, row in zip(prompts, rows, strict=True)]
    assert 0.6 < sum(scores) / len(scores) < 0.9  # people in a hurry: not all is right
    train = {p.meta["statement"] for p in generate_prompts(4000, seed=4, split="train")}
    assert not train & {row["statement"] for row in rows}


def test_the_questions_are_what_their_program_writes(tmp_path: Path) -> None:
    runpy.run_path(str(FIELD / "make_questions.py"))["write"](tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == HELD_OUT.read_bytes()


# -- the real recipes, as far as they go without a network ---------------------------------------

TURNS = [
    {"role": "user", "content": "question {i}"},
    {"role": "assistant", "content": "answer {i}"},
]
CHAT = {"messages": TURNS}
SIDES = [[TURNS[0], {"role": "assistant", "content": text}] for text in ("good {i}", "bad {i}")]
MATHS = {"problem": "what is {i} + 1?", "solution": "it is so", "answer": "{i}"}
HUB: dict[str, dict[str, Any]] = {
    "databricks/databricks-dolly-15k": {
        "instruction": "question {i}", "context": "", "response": "answer {i}", "category": "qa",
    },
    "openbmb/UltraFeedback": {
        "source": "x", "instruction": "question {i}", "models": ["a", "b"],
        "completions": [
            {"response": f"answer {k} to {{i}}", "overall_score": k, "model": "m"} for k in range(4)
        ],
    },
    "yahma/alpaca-cleaned": {"instruction": "do {i}", "input": "", "output": "done {i}"},
    "NeelNanda/pile-10k": {"text": "a document {i}", "meta": {"pile_set_name": "x"}},
    "HuggingFaceH4/ultrachat_200k": {"prompt": "question {i}", "prompt_id": "{i}", **CHAT},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "question {i}", "prompt_id": "{i}", "chosen": SIDES[0], "rejected": SIDES[1],
        **CHAT, "score_chosen": 8.0, "score_rejected": 3.0,
    },
    "allenai/tulu-3-sft-mixture": {"id": "{i}", **CHAT, "source": "x"},
    "allenai/RLVR-GSM": {"messages": TURNS[:1], "ground_truth": "{i}", "dataset": "gsm8k"},
    "agentica-org/DeepScaleR-Preview-Dataset": MATHS,
    "HuggingFaceH4/MATH-500": {**MATHS, "subject": "x", "level": 1, "unique_id": "{i}"},
    "vwxyzjn/summarize_from_feedback_tldr_3_filtered_oai_preprocessing_1706381144": {
        "id": "{i}", "post": "p", "summary": "s", "query": "POST: {i}\n\nTL;DR:",
        "reference_response": " it is {i}",
    },
    "vwxyzjn/summarize_from_feedback_oai_preprocessing_1706381144": {
        "query": "POST: {i}\n\nTL;DR:", "response0": " it is {i}", "response1": " no", "choice": 1,
    },
}  # fmt: skip
"""A row of each data set, with the columns that its page on the hub lists."""
OWN = {
    "held-out.jsonl": {"prompt": "question {i}"},
    "tldr-test.jsonl": {"prompt": "POST: {i}\n\nTL;DR:", "output": " it is {i}"},
    "gsm8k-test.jsonl": {"question": "what is {i}?", "answer": "so\n#### {i}"},
    "maths-test.jsonl": {"question": "what is {i}?", "answer": "{i}"},
}


def rows(row: Any) -> str:
    text = json.dumps(row)
    return "".join(text.replace("{i}", str(i)) + "\n" for i in range(40))


def at_hand(recipe: Recipe, folder: Path, model: Path) -> list[str]:
    """Overrides that put files in the place of the hub's data, and a small model in the model's."""
    changes = [f"model={model}", "precision=float32", "max_length=200", "max_prompt_length=100"]
    places = [(f"{s.name}.{key}", getattr(s, key)) for s in recipe.stages
              for key in ("data", "eval_data", "normalise_on", "pretraining")]  # fmt: skip
    assert recipe.compare is not None
    places.append(("compare.prompts", recipe.compare.prompts))
    changes.append("compare.rollout.max_new_tokens=16")
    for where, specs in places:
        for i, spec in enumerate(specs):
            if spec.path.startswith("stage:"):
                continue
            file = folder / f"{spec.path.replace('/', '-')}.jsonl"
            file.write_text(rows(HUB[spec.path]), encoding="utf-8")
            changes += [f"{where}.{i}.path={file}", f"{where}.{i}.split=null"]
    for stage in recipe.stages:
        changes += [f"{stage.name}.holdout=0.2"] if stage.holdout else []
        if stage.rollout.model_fields_set:
            changes += [f"{stage.name}.rollout.max_new_tokens=16"]
    return changes


@pytest.mark.parametrize("name", NAMES)
def test_a_real_recipe_reads_the_hubs_columns(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for own, row in OWN.items():
        (tmp_path / own).write_text(rows(row), encoding="utf-8")
    file = FIELD / f"{name}.yaml"
    recipe = load_recipe(file, at_hand(load_recipe(file), tmp_path, tiny_folder))
    plans = {plan.stage.name: plan for plan in make_plan(recipe, FIELD)}
    for stage in recipe.stages:
        if any(not spec.path.startswith("stage:") for spec in stage.data):
            assert plans[stage.name].rows, stage.name
            assert not plans[stage.name].skipped, plans[stage.name].left_out


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_named(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Without the user's own held-out file nothing is trained."""
    file = FIELD / f"{name}.yaml"
    recipe = load_recipe(file, at_hand(load_recipe(file), tmp_path, tiny_folder))
    with pytest.raises(ConfigError, match=r"(held-out|-test)\.jsonl: no such file"):
        make_plan(recipe, FIELD)


def test_demonstrators_wrote_the_reference_answers() -> None:
    """The generator behind tunnel:rankings and the file is the one of tunnel:demonstrations."""
    prompt = generate_prompts(1, seed=7, split="heldout")[0]
    texts = {write_response(prompt, seeded("again", i)) for i in range(60)}
    assert len(texts) > 20
