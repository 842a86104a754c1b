"""Gates of a run: what stops it, what goes on from the model before, what a resumed run does."""

import json
from typing import Any

import pytest

from gnomon.audit.readings import stage_readings
from gnomon.errors import ConfigError, GateClosed, RunError
from gnomon.judges.build import BUILTIN
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.runs.audit import GATES, Gates
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.folder import RunFolder
from gnomon.runs.read import read_stage
from gnomon.runs.records import StageInfo
from gnomon.stages.gate_names import check_gates, stage_metrics
from gnomon.stages.plan import plan_parts
from gnomon.stages.run import run_recipe
from gnomon.stats.intervals import Interval
from gnomon.tasks.tunnel.loopholes import LeakyReward
from tiny_world import make_recipe, sft_stage

OPEN, SHUT = "loss <= 1e6 (value)", "loss <= 1e-6 (value)"


def _stages(gates, **more):
    """Three short stages, the gates after the second."""
    first, second, third = (sft_stage(1, train={"steps": 1}) | {"name": n} for n in "abc")
    return [first, {**second, "gates": gates, **more}, third]


def _plain(recipe):
    """What was written, without the defaults."""
    return recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _run(recipe, folder, *overrides, resume=False):
    raw = _plain(recipe)
    for override in overrides:
        apply_override(raw, override)
    said = []
    try:
        run_recipe(parse_recipe(raw), base=folder, resume=resume, announce=said.append)
    except GateClosed as gate:
        return gate, said
    return None, said


def _start(folder, name):
    (stage,) = folder.glob(f"run/stages/*-{name}")
    return StageInfo.read(stage / "stage.json").start["from"]


def _begun(folder):
    return [f.name[3:] for f in sorted(folder.glob("run/stages/*")) if (f / "stage.json").exists()]


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    def made(gates, **more):
        return make_recipe(tiny_folder, tmp_path, _stages(gates, **more))

    return made


def test_an_open_gate_is_noted_and_the_run_goes_on(recipe, tmp_path):
    gate, said = _run(recipe(OPEN), tmp_path)
    assert gate is None
    assert _begun(tmp_path) == ["a", "b", "c"]
    (result,) = Gates.read(tmp_path / "run" / GATES).root["b"]
    assert result.passed is True
    assert any("gate 'loss <= 1e6 (value)' opens" in line for line in said)


def test_a_gate_that_fails_stops_the_run_and_keeps_everything(recipe, tmp_path):
    gate, _ = _run(recipe([OPEN, SHUT]), tmp_path)
    assert "loss is" in str(gate)
    assert "above 1e-06" in str(gate)
    assert "1e6" not in str(gate)  # that one opened
    assert _begun(tmp_path) == ["a", "b"]
    assert (tmp_path / "run/stages/02-b/model/model.safetensors").exists()
    assert (tmp_path / "run/report.html").exists()
    results = Gates.read(tmp_path / "run" / GATES).root["b"]
    assert [r.passed for r in results] == [True, False]


def test_resume_asks_again_with_the_gates_as_they_are_now(recipe, tmp_path):
    one = recipe(SHUT)
    assert _run(one, tmp_path)[0]
    gate, said = _run(one, tmp_path, resume=True)
    assert gate is not None  # nothing changed, so nothing goes on
    assert "b: done already" in said
    weights = tmp_path / "run/stages/02-b/model/model.safetensors"
    before = weights.read_bytes()
    gate, said = _run(one, tmp_path, f"b.gates=[{OPEN}]", resume=True)
    assert gate is None
    assert _begun(tmp_path) == ["a", "b", "c"]
    assert weights.read_bytes() == before
    assert OPEN in (tmp_path / "run/recipe.yaml").read_text()
    with pytest.raises(ConfigError, match=r"b\.train\.lr"):  # all else is still refused
        _run(one, tmp_path, "b.train.lr=0.5", resume=True)


def test_previous_lets_later_stages_go_on_from_the_model_before(recipe, tmp_path):
    gate, said = _run(recipe(SHUT, on_fail="previous"), tmp_path)
    assert gate is None
    assert _start(tmp_path, "b").endswith("01-a/model")
    assert _start(tmp_path, "c").endswith("01-a/model")
    assert any("held back" in line for line in said)
    assert (tmp_path / "run/stages/02-b/model/model.safetensors").exists()


def test_without_the_failure_the_same_recipe_goes_on_from_the_stage(recipe, tmp_path):
    assert _run(recipe(OPEN, on_fail="previous"), tmp_path)[0] is None
    assert _start(tmp_path, "c").endswith("02-b/model")


def test_a_first_stage_that_is_held_back_leaves_the_recipes_model(tiny_folder, tmp_path):
    stages = _stages([])[:2]
    stages[0] |= {"gates": [SHUT], "on_fail": "previous"}
    assert _run(make_recipe(tiny_folder, tmp_path, stages), tmp_path)[0] is None
    assert "stages" not in _start(tmp_path, "b")


def test_an_eval_of_the_recipes_model_opens_its_own_gate(tiny_folder, tmp_path):
    """The policy that it was to measure is held back, so that it measures the model before it."""
    (tmp_path / "asked.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": "2"}\n' * 2)
    stages = _stages([])[:1]
    stages[0] |= {"gates": [SHUT], "on_fail": "previous"}
    options = {
        "data": ["asked.jsonl"],
        "judge": "correct",
        "name": "questions/sums",
        "max_new_tokens": 2,
    }
    suite = {"suite": "questions", "options": options}
    look = {"name": "look", "algorithm": "eval", "from": "a", "settings": {"suites": [suite]}}
    stages.append(look | {"gates": ["questions/sums.accuracy <= 1 (value)"]})
    stopped, said = _run(make_recipe(tiny_folder, tmp_path, stages), tmp_path)
    assert "look" not in str(stopped).partition("All stages")[0]
    assert any(
        "look: gate 'questions/sums.accuracy <= 1 (value)' opens" in line for line in said
    ), said


def test_from_a_stage_that_is_held_back_is_from_the_model_before_it(tiny_folder, tmp_path):
    stages = _stages([SHUT])
    stages[2]["from"] = "b"
    recipe = make_recipe(tiny_folder, tmp_path, stages, on_fail="previous")
    assert _run(recipe, tmp_path)[0] is None
    assert _start(tmp_path, "c").endswith("01-a/model")


def test_a_run_that_ends_with_its_last_policy_held_back_says_so(tiny_folder, tmp_path):
    stages = _stages([SHUT], on_fail="previous")[:2]
    gate, _ = _run(make_recipe(tiny_folder, tmp_path, stages), tmp_path)
    assert "the run ends with a" in str(gate)


def test_a_decision_that_changes_what_later_stages_were_built_on_is_refused(recipe, tmp_path):
    one = recipe(SHUT, on_fail="previous")
    assert _run(one, tmp_path)[0] is None
    with pytest.raises(RunError, match=r"03-c was made from .*01-a"):
        _run(one, tmp_path, f"b.gates=[{OPEN}]", resume=True)
    with pytest.raises(RunError, match=r"03-c was made from .*01-a"):
        _run(one, tmp_path, "b.gates=[]", "b.on_fail=null", resume=True)
    assert _run(one, tmp_path, resume=True)[0] is None


def test_a_judges_win_rate_opens_once_people_vouch_for_the_judge(tiny_folder, tmp_path):
    one = make_recipe(tiny_folder, tmp_path, _stages("win_rate >= 0.55")[1:])
    gate, _ = _run(one, tmp_path)
    assert "gnomon eval" in str(gate)
    run = tmp_path / "run"
    scores = {"win_rate": Interval(0.7, 0.6, 0.8, 200)}
    EvalResult(
        suite="wins", model="b", against="a", judge="j", judge_version="1", scores=scores,
        main="win_rate",
    ).write(run / "evals/b/wins.json")  # fmt: skip
    gate, _ = _run(one, tmp_path, resume=True)
    assert "50 people's labels" in str(gate)
    Calibration(judge="j", version="1", labels=60).write(run / "calibrations/j.json")
    assert _run(one, tmp_path, resume=True)[0] is None
    assert _begun(tmp_path) == ["b", "c"]


def test_the_whole_runs_gates_are_asked_at_the_end(tiny_folder, tmp_path):
    one = make_recipe(tiny_folder, tmp_path, _stages([])[:1])
    gate, _ = _run(one, tmp_path, f"gates=[{SHUT}]")
    assert "All stages are done" in str(gate)
    assert _run(one, tmp_path, f"gates=[{OPEN}]", resume=True)[0] is None
    assert json.loads((tmp_path / "run" / GATES).read_text())[""][0]["passed"] is True


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        ("eval/loss <= 3", "it holds no rows out: give it holdout"),
        ("los <= 3", "did you mean 'loss'?"),
        ("win_rat >= 0.5", "did you mean 'win_rate'?"),
        ("no alarm: reward_hackin", "did you mean 'reward_hacking'?"),
        ("reward >= 1", "no metric 'reward'"),  # SFT has none
        ("complianse <= 0.1", "did you mean 'compliance'?"),
        ("refusal.complianse <= 0.1", "did you mean 'refusal.compliance'?"),
        ("refusal/harm.complianse <= 0.1", "no metric 'refusal/harm.complianse'"),
        ("mt_bench.turns_1 >= 5", "no metric 'mt_bench.turns_1'"),
    ],
)
def test_a_misspelt_gate_is_answered_before_anything_runs(recipe, tmp_path, gates, says):
    for attempt in (
        lambda: run_recipe(recipe(gates), base=tmp_path),
        lambda: list(plan_parts(recipe(gates), tmp_path)),
    ):
        with pytest.raises(ConfigError) as error:
            attempt()
        assert says in str(error.value)
        assert "'b'" in str(error.value)
    assert not (tmp_path / "run").exists()


GOOD_NAMES = [
    *("compliance", "refusal.compliance", "refusal/harm.compliance", "refusal/v1.2"),
    *("mt_bench.turn_2", "questions/sums.pass@4", "arena_hard.win_rate/gpt", "accuracy"),
    *("lm_eval/mmlu.acc", "lm_eval.anything", "mine", "mine.own", "sums", "sums.accuracy"),
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_whatever_an_eval_can_measure_a_gate_can_ask_for(tiny_folder, tmp_path, name):
    """Also before it has been measured: by the score's name alone, by that of its suite, by what
    the recipe calls it."""
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": "a"}\n')
    (tmp_path / "own.py").write_text("raise SystemExit('imported before the run')\n")
    suites = [
        {"suite": "questions", "options": {"data": "q.jsonl", "judge": "exact", "name": "sums"}},
        {"suite": "own.py:Mine"},
    ]
    look = {"name": "look", "algorithm": "eval", "settings": {"suites": suites}}
    recipe = make_recipe(tiny_folder, tmp_path, [sft_stage(1), look], gates=[f"{name} >= 0"])
    check_gates(recipe, RunFolder(recipe), tmp_path)
    other = make_recipe(tiny_folder, tmp_path, [sft_stage(1), look], gates=["sums.acuracy >= 0"])
    with pytest.raises(ConfigError, match=r"did you mean 'sums.accuracy'"):
        check_gates(other, RunFolder(other), tmp_path)


def test_previous_needs_a_policy_and_on_fail_a_gate(tiny_folder, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"prompt": "What is 1 + 1?", "chosen": "2.", "rejected": "3."}) + "\n"
    )
    stage = {"name": "rm", "algorithm": "reward_model", "data": "pairs.jsonl"}
    for more, says in (
        ({"gates": "accuracy >= 0", "on_fail": "previous"}, "it trains none"),
        ({"on_fail": "stop"}, "it has no gates"),
    ):
        recipe = make_recipe(tiny_folder, tmp_path, {**stage, **more})
        with pytest.raises(ConfigError, match=says):
            run_recipe(recipe, base=tmp_path)


def test_the_dry_run_lists_gates_with_the_side_that_counts(recipe, tmp_path):
    one = recipe(["loss <= 3", "no alarm"], on_fail="previous")
    raw = _plain(one)
    apply_override(raw, "gates=[eval/loss <= 2 (value)]")
    apply_override(raw, "c.holdout=0.2")
    shown = "\n".join(str(part) for part in plan_parts(parse_recipe(raw), tmp_path))
    assert "b: gate loss <= 3, by the high end of the interval; else later stages go on" in shown
    assert "b: gate no alarm; else later stages go on from the model before" in shown
    assert "at the end: gate eval/loss <= 2, by the value; else the exit code is 4" in shown


def test_gates_of_a_recipe_change_no_hash_and_a_stage_may_be_called_gates(tiny_folder, tmp_path):
    stages = [sft_stage(1, train={"steps": 1}) | {"name": "gates"}]
    recipe = make_recipe(tiny_folder, tmp_path, stages)
    _run(recipe, tmp_path)
    run = RunFolder(recipe)
    assert run.check(resume=True)
    with pytest.raises(ConfigError):
        _run(recipe, tmp_path, "gates.train.lr=0.3", resume=True)
    (run.path / "recipe.yaml").write_text("{")  # the manifest's hash says that it is the same
    assert _run(recipe, tmp_path, f"gates.gates=[{OPEN}]", resume=True)[0] is None


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "dpo"])
def test_whatever_a_stage_logs_a_gate_can_ask_for(tiny_folder, tmp_path, algorithm):
    stage = {"name": "b", "algorithm": algorithm, "train": {"steps": 1, "batch_size": 2}}
    if algorithm == "dpo":
        row = {"prompt": "What is 1 + 1?", "chosen": "2.", "rejected": "3."}
        other = row | {"prompt": "What is 2 + 1?"}
        lines = "".join(json.dumps(r) + "\n" for r in (row, other, row | {"prompt": "Hi?"}))
        (tmp_path / "pairs.jsonl").write_text(lines)
        stage |= {"data": "pairs.jsonl", "eval_data": "pairs.jsonl"}
    else:
        prompts = {"path": "tunnel:prompts", "options": {"n": 4, "seed": 1}}
        rollout = {"samples": 2, "max_new_tokens": 4}
        rewards = {"reward": [{"builtin": "leaky"}, {"builtin": "length", "options": {"high": 9}}],
                   "observe": "gold"}  # fmt: skip
        stage |= {"data": prompts, "eval_data": prompts, "rollout": rollout, **rewards}
    recipe = make_recipe(tiny_folder, tmp_path, stage)
    _run(recipe, tmp_path)
    run = RunFolder(recipe)
    known = stage_metrics(recipe, recipe.stages[0], run, tmp_path)
    logged = stage_readings(read_stage(run.stage("b").path, []))
    assert len(logged) > 10
    missing = [n for n in logged if n not in known and not n.startswith(tuple(
        k for k in known if k.endswith(("/", "."))))]  # fmt: skip
    assert missing == []


class Opinion(LeakyReward):
    """A judge that asks a model, as far as gates can tell."""

    version = "opinion-1"

    def __init__(self, **where: Any) -> None:
        super().__init__()


def test_an_ai_judges_figure_opens_once_people_vouch_for_it(tiny_folder, tmp_path, monkeypatch):
    builtin = {**BUILTIN, "ai": f"{__name__}:Opinion"}
    monkeypatch.setattr("gnomon.judges.build.BUILTIN", builtin)
    prompts = {"path": "tunnel:prompts", "options": {"n": 4, "seed": 1}}
    rollout = {"samples": 2, "max_new_tokens": 4}
    stage = {"name": "b", "algorithm": "grpo", "train": {"steps": 1, "batch_size": 2},
             "data": prompts, "eval_data": prompts, "rollout": rollout, "reward": "leaky",
             "observe": "ai", "gates": "eval/ai >= -1 (value)"}  # fmt: skip
    recipe = make_recipe(tiny_folder, tmp_path, stage)
    gate, _ = _run(recipe, tmp_path)
    assert "ai (version opinion-1)" in str(gate)
    assert "50 people's labels" in str(gate)
    vouched = Calibration(judge="ai", version="opinion-1", labels=50)
    vouched.write(tmp_path / "run/calibrations/ai.json")
    assert _run(recipe, tmp_path, resume=True)[0] is None
