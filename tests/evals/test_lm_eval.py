"""lm-eval's tasks on gnomon's engine, from local files, against lm-eval's own `hf` model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval_zoo import (
    gsm8k_rows,
    humaneval_rows,
    measured,
    mmlu_rows,
    save_word_model,
    scripted,
    truthfulqa_rows,
    write,
)

import tiny_world
from gnomon.errors import ConfigError, DataError, RunStopped
from gnomon.evals import lm_eval_tasks
from gnomon.evals.lm_eval_model import EngineLM
from gnomon.evals.lm_eval_run import _resampled
from gnomon.evals.lm_eval_tasks import load_tasks
from gnomon.evals.rows import Rows
from gnomon.evals.subject import Model
from gnomon.evals.table import make_suite
from gnomon.models.roles import Role
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.stats.intervals import exact_interval, weighted_proportion

STEM = ("abstract_algebra", "astronomy")


@pytest.fixture
def subject(tiny_folder: Path) -> Model:
    return Model(str(tiny_folder), "tiny")


def hf(model: Model, **options: Any) -> HFLM:
    trunk = model.role().trunk
    return HFLM(pretrained=trunk.model, tokenizer=trunk.tokenizer, device="cpu", **options)


def mmlu(folder: Path) -> dict[str, str]:
    write(folder / "test.jsonl", mmlu_rows(0, 6, STEM))
    write(folder / "dev.jsonl", mmlu_rows(50, 2, STEM))
    return {"test": "test.jsonl", "dev": "dev.jsonl"}


def gsm8k(folder: Path) -> dict[str, str]:
    write(folder / "gsm.jsonl", gsm8k_rows(0, 5))
    write(folder / "gsm-train.jsonl", gsm8k_rows(30, 4))
    return {"test": "gsm.jsonl", "train": "gsm-train.jsonl"}


# -- the same as lm-eval's own model ---------------------------------------------------------------


CASES = {
    "mmlu_stem": (mmlu, {"shots": 2}),
    "gsm8k": (gsm8k, {"shots": 2, "generation": {"max_gen_toks": 12}}),
    "truthfulqa_mc1": (lambda d: {"": write(d / "t.jsonl", truthfulqa_rows(4)).name}, {}),
    "truthfulqa_mc2": (lambda d: {"": write(d / "t.jsonl", truthfulqa_rows(4)).name}, {}),
}


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("chat", [False, True])
def test_scores_and_answers_are_those_of_lm_evals_own_model(
    tmp_path: Path, subject: Model, task: str, chat: bool
) -> None:
    make, options = CASES[task]
    given = make(tmp_path)
    files: Any = given.get("", given)
    result, rows = measured(
        f"lm_eval/{task}", {"files": {task: files}, "chat": chat, **options}, tmp_path, subject
    )
    paths = {split: tmp_path / file for split, file in given.items()}
    loaded = load_tasks([task], {task: paths}, base=tmp_path, shots=options.get("shots"),
                        generation=options.get("generation"))  # fmt: skip
    own = lm_evaluate(
        hf(subject, batch_size=3),
        {"tasks": loaded.tasks, "groups": {}},
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
    )
    wanted = {
        f"{name}/{sample['doc_id']}": [r for responses in sample["resps"] for r in responses]
        for name, samples in own["samples"].items()
        for sample in samples
    }
    assert {row["id"] for row in rows} == set(wanted)
    for row in rows:
        for mine, theirs in zip(row["answers"], wanted[row["id"]], strict=True):
            if isinstance(theirs, str):
                assert mine == theirs
            else:
                assert mine[0] == pytest.approx(theirs[0], abs=1e-4)
                assert mine[1] == theirs[1]
    scores = [own["results"][name] for name in loaded.tasks]
    for name, figure in result.scores.items():
        key = name.replace("/", ",") if "/" in name else f"{name},none"
        assert figure is not None
        assert figure.value == pytest.approx(sum(s[key] for s in scores) / len(scores), abs=1e-4)


def test_whole_texts_have_lm_evals_log_probs_in_windows(subject: Model, tmp_path: Path) -> None:
    texts = ["the cat", " ".join(f"the {i} cats and the sum" for i in range(60)), "a"]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0, ("t", i, 1))
                for i, text in enumerate(texts)]  # fmt: skip
    role = subject.role()
    trunk = role.trunk
    mine = EngineLM(role, TorchEngine(trunk.model, trunk.tokenizer), Rows(tmp_path / "a", "k"),
                    max_length=64)  # fmt: skip
    assert mine.loglikelihood_rolling(requests) == pytest.approx(
        hf(subject, max_length=64, batch_size=1).loglikelihood_rolling(requests), rel=1e-6
    )


def test_an_adapter_is_part_of_the_model(tmp_path: Path) -> None:
    trunk = tiny_world.trunk()
    trunk.add_adapter("policy", tiny_world.LORA)
    for name, parameter in trunk.adapter_parameters("policy").items():
        parameter.data.normal_(0, 0.3) if "lora_B" in name else None
    engine = TorchEngine(trunk.model, trunk.tokenizer)
    request = [Instance("loglikelihood", {}, ("the cat", " and the dog"), 0, ("t", 0, 1))]
    found = []
    for adapter in (None, "policy"):
        role = Role("policy", trunk, adapter=adapter)
        lm = EngineLM(role, engine, Rows(tmp_path / str(adapter), "k"))
        found.append(lm.loglikelihood(request)[0][0])
    assert abs(found[0] - found[1]) > 1e-3


# -- what the record says --------------------------------------------------------------------------


def test_a_group_is_scored_over_its_items_and_by_subject(tmp_path: Path, subject: Model) -> None:
    write(tmp_path / "m.jsonl", [*mmlu_rows(0, 8, STEM[:1]), *mmlu_rows(0, 3, STEM[1:])])
    result, rows = measured("lm_eval/mmlu_stem", {"data": ["m.jsonl"]}, tmp_path, subject)
    right = [row["scores"]["acc"] for row in rows]
    figure, wanted = result.scores["acc"], exact_interval(sum(right), 11)
    assert figure is not None
    assert (figure.value, figure.low, figure.high, figure.n) == pytest.approx(
        (wanted.value, wanted.low, wanted.high, 11)
    )
    assert set(result.by_category) == {f"mmlu_{name}" for name in STEM}
    assert result.n == 11
    assert any("2 of its 19 tasks" in note for note in result.notes)
    assert result.versions["lm_eval"] == "0.4.13"
    assert result.data["mmlu_stem"]["file"] == "m.jsonl"


def test_several_tasks_have_their_names_before_their_scores(tmp_path: Path, subject: Model) -> None:
    write(tmp_path / "t.jsonl", truthfulqa_rows(3))
    files = {"files": {"truthfulqa_mc1": "t.jsonl", "truthfulqa_mc2": "t.jsonl"}}
    options = {"tasks": ["truthfulqa_mc1", "truthfulqa_mc2"], "score": "truthfulqa_mc2/acc"}
    result, rows = measured("lm_eval", {**options, **files}, tmp_path, subject)
    assert result.suite == "lm_eval/truthfulqa_mc1+truthfulqa_mc2"
    assert set(result.scores) == {"truthfulqa_mc1/acc", "truthfulqa_mc2/acc"}
    assert result.main == "truthfulqa_mc2/acc"
    scored = {row["id"]: row["score"] for row in rows if "score" in row}
    assert set(scored) == {f"truthfulqa_mc2/{i}" for i in range(3)}
    figure = result.scores["truthfulqa_mc2/acc"]
    assert figure is not None
    assert figure.value == pytest.approx(sum(scored.values()) / 3)
    result, _ = measured("lm_eval", {**options, **files, "score": "mc2/acc"}, tmp_path, subject)
    assert result.main == "truthfulqa_mc1/acc"
    assert any("no score 'mc2/acc'" in note for note in result.notes)


def test_items_that_share_a_passage_are_a_cluster(tmp_path: Path, subject: Model) -> None:
    rows = [
        {"question": f"{i}?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
         "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}, "passage": i // 3}
        for i in range(9)
    ]  # fmt: skip
    write(tmp_path / "t.jsonl", rows)
    options = {"data": ["t.jsonl"], "cluster": "passage"}
    result, kept = measured("lm_eval/truthfulqa_mc1", options, tmp_path, subject)
    right = [row["scores"]["acc"] for row in kept]
    assert result.scores["acc"] == weighted_proportion(right, clusters=[i // 3 for i in range(9)])
    asked = [row["request"] for row in kept]  # by which two results are compared
    assert [asked.index(request) for request in asked] == [i // 3 * 3 for i in range(9)]
    with pytest.raises(ConfigError, match="no field 'pasage'; did you mean 'passage'"):
        measured("lm_eval/truthfulqa_mc1", {**options, "cluster": "pasage"}, tmp_path, subject)


def test_what_does_not_fit_is_cut_from_the_left_and_counted(tmp_path: Path, subject: Model) -> None:
    write(tmp_path / "t.jsonl", truthfulqa_rows(3))
    options = {"data": ["t.jsonl"], "max_length": 40}
    result, rows = measured("lm_eval/truthfulqa_mc1", options, tmp_path, subject)
    assert all(row["cut"] > 0 for row in rows)
    assert any("3 of 3 items do not fit the 40 tokens" in note for note in result.notes)
    # hf with the same length says the same
    args = [Instance("loglikelihood", {}, (rows[0]["prompt"], choice), 0, ("t", 0, 1))
            for choice in rows[0]["choices"]]  # fmt: skip
    theirs = hf(subject, max_length=40).loglikelihood(args)
    assert [a[0] for a in rows[0]["answers"]] == pytest.approx([t[0] for t in theirs], abs=1e-4)


def test_an_item_that_fails_costs_only_itself(tmp_path: Path, subject: Model) -> None:
    rows = truthfulqa_rows(3)
    rows[1]["Incorrect Answers"] = "no " * 300  # longer than the model
    write(tmp_path / "t.jsonl", rows)
    result, kept = measured("lm_eval/truthfulqa_mc1", {"data": ["t.jsonl"]}, tmp_path, subject)
    assert (result.n, result.errors) == (2, 1)
    failed = [row for row in kept if "error" in row]
    assert [row["id"] for row in failed] == ["truthfulqa_mc1/1"]
    assert "more than the model's 256" in failed[0]["error"]
    assert any("1 of 3 items failed" in note for note in result.notes)


OWN = """
task: own
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
    aggregation: bits_per_byte
    higher_is_better: false
"""


def test_models_with_different_tokenizers_are_measured_in_bytes(
    tmp_path: Path, subject: Model
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(OWN)
    write(tmp_path / "t.jsonl", [{"text": f"w5 w{i} w7"} for i in range(10, 16)])
    other = save_word_model(tmp_path / "other")
    options = {"tasks": ["own"], "include": "tasks", "data": ["t.jsonl"]}
    for model in (subject, Model(str(other), "other")):
        result, rows = measured("lm_eval", options, tmp_path, model)
        figure = result.scores["bits_per_byte"]
        bits = -sum(row["answers"][0] for row in rows) / 0.6931471805599453
        assert figure is not None
        assert figure.value == pytest.approx(
            bits / sum(len(row["item"]["text"]) for row in rows), rel=1e-6
        )
        assert figure.low < figure.value < figure.high
        assert not result.higher_is_better


# -- going on --------------------------------------------------------------------------------------


def test_a_killed_eval_continues_with_what_is_not_answered(
    tmp_path: Path, tiny_folder: Path
) -> None:
    asked: list[str] = []

    def answer(prompt: str, place: int) -> str:
        asked.append(prompt)
        return "#### 7"

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise RunStopped("stopped", 15)

    write(tmp_path / "gsm.jsonl", gsm8k_rows(0, 100))
    options = {"data": ["gsm.jsonl"], "shots": 0, "generation": {"max_gen_toks": 4}}
    model = scripted(tiny_folder, answer)
    with pytest.raises(RunStopped):
        measured("lm_eval/gsm8k", options, tmp_path, model, watch=stop)
    assert len(asked) == 64
    said: list[str] = []
    result, rows = measured("lm_eval/gsm8k", options, tmp_path, model, tell=said.append)
    assert len(asked) == len(set(asked)) == 100
    assert any("64 requests are answered already" in line for line in said)
    assert (result.n, len(rows)) == (100, 100)
    assert result.tokens == 200  # those of the killed part too
    assert not list((tmp_path / "run").rglob("*.work"))


# -- HumanEval in the sandbox ----------------------------------------------------------------------


def test_programs_are_graded_in_the_sandbox(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "evaluate", None)  # whose code_eval would run them here
    secret = tmp_path / "secret"
    secret.write_text("2 * x")

    def answer(prompt: str, place: int) -> str:
        if "double" in prompt:
            return "    return x + x\n"
        return f"    return eval(open({str(secret)!r}).read())\n"

    write(tmp_path / "h.jsonl", humaneval_rows())
    options = {"data": ["h.jsonl"], "generation": {"max_gen_toks": 100}}
    result, rows = measured("lm_eval/humaneval", options, tmp_path, scripted(tiny_folder, answer))
    assert result.scores["pass@1"] == exact_interval(1, 2)
    assert [row["score"] for row in rows] == [[1.0], [0.0]]
    assert result.main == "pass@1"


def test_repeated_programs_give_pass_at_k(tmp_path: Path, tiny_folder: Path) -> None:
    write(tmp_path / "h.jsonl", humaneval_rows())
    options = {"data": ["h.jsonl"], "limit": 1, "generation": {"max_gen_toks": 100}}
    model = scripted(tiny_folder, lambda prompt, place: f"    return {place % 4} and 2 * x\n")
    result, rows = measured("lm_eval/humaneval_64", options, tmp_path, model)
    share = rows[0]["scores"]["pass@1"]
    assert share == 48 / 64  # place % 4 is 0 for a quarter of them
    value = result.scores["pass@2"]
    assert value is not None
    wanted = 1 - (16 * 15) / (64 * 63)  # Chen et al. 2021, eq. 1
    assert value.value == pytest.approx(wanted)


def test_other_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mbpp runs the model's programs with your own rights"):
        make_suite("lm_eval/mbpp", {}, tmp_path)


# -- what is wrong is said -------------------------------------------------------------------------


def test_a_task_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # reading all of lm-eval's tasks takes many seconds
    monkeypatch.setattr(lm_eval_tasks, "DEFAULTS", lm_eval_tasks.DEFAULTS / "gsm8k")
    with pytest.raises(ConfigError, match=r"no task 'gsm8kk'; did you mean 'gsm8k'"):
        make_suite("lm_eval/gsm8kk", {}, tmp_path)


def test_a_task_without_the_hub_says_how_to_give_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gsm8k could not be loaded .*files: \{gsm8k: FILE\}"):
        make_suite("lm_eval/gsm8k", {}, tmp_path)


def test_without_lm_eval_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'gnomon-rlhf\[eval\]'"):
        make_suite("lm_eval/gsm8k", {}, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"options": "ABCD"}, r"m.jsonl.*4 choices"),
        ({"answer": "E"}, r"m.jsonl.*answer is 'E'"),
        ({"question": None}, r"m.jsonl.*question"),
    ],
)
def test_a_row_that_is_wrong(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = mmlu_rows(0, 3, STEM[:1])
    rows[1] |= row
    write(tmp_path / "m.jsonl", rows)
    with pytest.raises(DataError, match=message) as error:
        make_suite("lm_eval/mmlu_abstract_algebra", {"data": ["m.jsonl"]}, tmp_path)
    assert "2" in str(error.value)


def test_shots_without_a_split_for_them(tmp_path: Path) -> None:
    write(tmp_path / "gsm.jsonl", gsm8k_rows(0, 5))
    with pytest.raises(DataError, match="takes 5 shots from its split 'train'"):
        make_suite("lm_eval/gsm8k", {"data": ["gsm.jsonl"]}, tmp_path)


def test_a_model_without_a_chat_template(tmp_path: Path, tiny_folder: Path) -> None:
    plain = tmp_path / "plain"
    tiny_world.save_tiny(plain)
    (plain / "chat_template.jinja").unlink()
    write(tmp_path / "t.jsonl", truthfulqa_rows(2))
    model = Model(str(plain), "plain")
    options: dict[str, Any] = {"data": ["t.jsonl"]}
    result, _ = measured("lm_eval/truthfulqa_mc1", options, tmp_path, model)
    assert result.n == 2
    with pytest.raises(ConfigError, match="plain has no chat template"):
        measured("lm_eval/truthfulqa_mc1", {**options, "chat": True}, tmp_path, model)


def test_settings_that_the_engine_has_not(tmp_path: Path, subject: Model) -> None:
    write(tmp_path / "gsm.jsonl", gsm8k_rows(0, 2))
    options = {"data": ["gsm.jsonl"], "shots": 0, "generation": {"repetition_penalty": 1.2}}
    with pytest.raises(ConfigError, match="no generation setting repetition_penalty"):
        measured("lm_eval/gsm8k", options, tmp_path, subject)


def test_files_with_a_split_that_the_task_has_not(tmp_path: Path) -> None:
    write(tmp_path / "gsm.jsonl", gsm8k_rows(0, 2))
    files = {"files": {"gsm8k": {"tests": "gsm.jsonl"}}}
    with pytest.raises(ConfigError, match="no split 'tests'; did you mean 'test'"):
        make_suite("lm_eval/gsm8k", files, tmp_path)


def test_the_published_files_are_read(shared_data: Path, tmp_path: Path) -> None:
    given = {
        "mmlu_stem": shared_data / "mmlu_stem" / "test.jsonl.gz",
        "gsm8k": shared_data / "gsm8k" / "test.jsonl.gz",
        "humaneval": shared_data / "humaneval" / "HumanEval.jsonl.gz",
        "truthfulqa_mc1": shared_data / "truthfulqa" / "TruthfulQA.jsonl.gz",
    }
    counts = {}
    for task, file in given.items():
        loaded = load_tasks([task], {task: {"": file}}, base=tmp_path, shots=0)
        counts[task] = sum(len(one.eval_docs) for one in loaded.tasks.values())
    assert counts == {"mmlu_stem": 3018, "gsm8k": 1056, "humaneval": 132, "truthfulqa_mc1": 813}


def test_rows_are_json_without_what_only_lm_eval_understands(
    tmp_path: Path, subject: Model
) -> None:
    write(tmp_path / "t.jsonl", truthfulqa_rows(2))
    _, rows = measured("lm_eval/truthfulqa_mc2", {"data": ["t.jsonl"]}, tmp_path, subject)
    assert json.dumps(rows)
    assert set(rows[0]) >= {"id", "item", "prompt", "answers", "choices", "target", "scores"}


def test_a_score_that_no_draw_of_items_changes_has_no_interval() -> None:
    def f1(pairs: Sequence[tuple[int, int]]) -> float:
        right = sum(gold and said for gold, said in pairs)
        return 2 * right / sum(gold + said for gold, said in pairs)

    found = _resampled(f1, [(1, 1)] * 20, None)
    assert (found.value, found.known, found.n) == (1.0, False, 20)
    assert _resampled(f1, [(1, 1)] * 15 + [(1, 0)] * 5, None).known
