"""``gnomon calibrate``: judges behind a real endpoint, past verdicts, and wrong input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

import tiny_world as tw
from command import Run, runs
from gnomon.data.readers import read_groups
from gnomon.data.rows import iter_rows
from gnomon.data.values import RawRow
from gnomon.evals.calibration import calibrate
from gnomon.evals.calibration_pairs import labelled_pairs
from gnomon.judges.recorded import RecordedJudge
from gnomon.models.roles import Role
from gnomon.models.save import save_reward_model
from gnomon.recipe.load import parse_recipe
from gnomon.runs.evals import Calibration, read_calibrations
from gnomon.stages.run import run_recipe
from judge_server import JudgeServer, Rule, answers, letter, prefers, says


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    return runs(tmp_path, monkeypatch, capsys, "calibrate")


def labels(folder: Path, n: int = 60) -> Path:
    """People say the answer with more x is better, but for every fifth pair; two label the first
    twenty, the second of whom always says so. The better answer is the shorter one in half."""
    rows = []
    for i in range(n):
        good, bad = f"{'x' * (i % 3 + 1)}{'-' * (i % 2 * 9)}", f"y{'-' * ((i + 1) % 2 * 9)}"
        first = i % 4 < 2
        right = "a" if first else "b"
        wrong = "b" if first else "a"
        row = {
            "id": f"r{i}",
            "prompt": f"question {i}",
            "response_a": good if first else bad,
            "response_b": bad if first else good,
            "preference": wrong if i % 5 == 0 else right,
            "evaluator": "kim",
            "category": "even" if i % 2 else "odd",
        }
        rows.append(row)
        if i < 20:  # the other way round, as some files have it
            turned = {"response_a": row["response_b"], "response_b": row["response_a"]}
            rows.append(row | turned | {"id": f"s{i}", "preference": wrong, "evaluator": "lee"})
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def by_x(text: str) -> float:
    return float(sum(map(len, re.findall(r"\bx+", text))))


def one(folder: Path) -> Calibration:
    ((_, record),) = read_calibrations(folder)
    return record


def asks(gnomon: Run, server: JudgeServer, *more: str) -> tuple[int, str]:
    options = ("--judge", "model=m", "--judge", f"url={server.url}", "--judge", "retries=0")
    return gnomon("labels.jsonl", *options, *more)


def test_a_calibration_of_a_judge_at_an_endpoint(
    gnomon: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels(tmp_path)
    days = (f"2026-01-0{day}" for day in range(1, 10))
    monkeypatch.setattr("gnomon.evals.calibration.now", lambda: next(days))
    with JudgeServer(prefers(by_x, sharp=5.0)) as server:
        more = ("--judge", "price_input=1", "--judge", "rubric=Mind: this", "--controls", "0")
        code, said = asks(gnomon, server, *more)
        assert code == 0, said
        assert "\nMind: this" in server.asked[0]["messages"][0]["content"]
        assert len(server.asked) == 120
        code, _ = asks(gnomon, server, *more)
        assert code == 0
        assert len(server.asked) == 120  # nothing is paid for twice
    found = one(tmp_path)
    assert found.made == "2026-01-01"  # nor does it become newer by being read again
    assert found.labels == 60
    # the judge is right by x; kim says the opposite in every fifth, lee never: 12 of 60, the four
    # of them that both label half
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx((60 - 12 + 4 * 0.5) / 60)
    assert found.agreement.low < found.agreement.value < found.agreement.high
    assert found.people is not None
    assert found.people.value == pytest.approx(16 / 20)
    assert found.first is not None
    assert found.first.value == 0.5
    assert found.flips is not None
    assert found.flips.value == 0.0
    assert found.detectable is not None
    assert set(found.by_category) == {"even", "odd"}
    assert found.model == "m"
    assert found.is_of("ai", found.version)
    assert found.opens_gates
    assert found.tokens == 120 * 101
    assert found.money == pytest.approx(120 * 100 / 1e6)
    assert found.data["labels.jsonl"]["rows"] == 80
    assert "agreement with people 0.833" in said
    rows = [json.loads(x) for x in next(tmp_path.glob("calibrations/*.jsonl")).open()]
    assert len(rows) == 60
    assert rows[0]["people"] == {"kim": 0.0, "lee": 1.0}
    assert rows[0]["win"] == pytest.approx(1 / (1 + math.exp(-5)))


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        (says("A"), "almost always prefers the answer shown first"),
        (says("A"), "100% of its verdicts change with the order"),
        (says("A"), "not shown to agree with people more than a coin"),
        (says("A"), "no difference of any size"),
        (prefers(len, sharp=5.0), "prefers longer answers more than people do"),
    ],
)
def test_a_judge_that_is_not_to_be_believed_is_said_so(
    gnomon: Run, tmp_path: Path, rule: Rule, warning: str
) -> None:
    labels(tmp_path)
    with JudgeServer(rule) as server:
        code, said = asks(gnomon, server, "--controls", "0")
    assert code == 0
    assert warning in said
    assert any(warning in w for w in one(tmp_path).warnings)


def test_who_calls_every_pair_a_tie_has_no_error_of_its_probabilities(
    gnomon: Run, tmp_path: Path
) -> None:
    labels(tmp_path)
    with JudgeServer(says("A")) as server:
        asks(gnomon, server, "--controls", "0")
    found = one(tmp_path)
    assert found.ece is None
    assert found.not_measured["ece"] == "it prefers no answer in any pair"


def test_a_corrected_judge_is_not_calibrated(gnomon: Run, tmp_path: Path) -> None:
    labels(tmp_path)
    with JudgeServer(prefers(by_x)) as server:
        code, said = asks(gnomon, server, "--judge", "corrected=true")
        assert (code, server.asked) == (1, [])
    assert "a calibration is of what the judge itself says" in said


def test_a_good_judge_is_warned_of_only_for_few_labels(gnomon: Run, tmp_path: Path) -> None:
    labels(tmp_path)
    with JudgeServer(prefers(lambda text: float("x" in text), sharp=1.4)) as server:
        asks(gnomon, server, "--limit", "40", "--controls", "0")
    found = one(tmp_path)
    assert not found.opens_gates
    assert [w.split(":")[0] for w in found.warnings] == ["only 20 pairs with people's labels"]


def test_edits_repeats_and_the_fixed_questions_are_asked_once(gnomon: Run, tmp_path: Path) -> None:
    """A judge that likes what is written in bold, and is in two minds under another seed."""
    labels(tmp_path, 24)
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").open()]
    for row in rows:
        for side in ("response_a", "response_b"):
            row[side] = f"It is {row[side]}. That is all there is to it."
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bold = prefers(lambda text: 3.0 * ("**" in text) + by_x(text))
    with JudgeServer(bold) as server:
        more = ("--judge", "logprobs=yes", "--controls", "12")
        code, said = asks(gnomon, server, *more)
        assert code == 0, said
        asked = len(server.asked)
        code, _ = asks(gnomon, server, *more)
        assert (code, len(server.asked)) == (0, asked)  # nothing is asked twice
    found = one(tmp_path)
    assert found.edits["bold"].low > 0.2
    assert found.edits["bullets"].value == pytest.approx(0.0, abs=1e-6)
    assert "it likes bold for itself" in said
    assert found.repeat.value == found.paraphrase.value == 1.0
    assert len(found.fingerprint) == 2
    assert found.fingerprint[0] == found.fingerprint[1]
    assert set(found.smallest) >= {"position", "longer", "edit bold"}
    assert "smallest bias that would have been seen" in said
    assert "not measured: own (the labels do not say who wrote an answer)" in said
    assert found.tokens == 101 * asked


def test_a_round_asks_anew_and_sees_another_model_behind_the_name(
    gnomon: Run, tmp_path: Path
) -> None:
    labels(tmp_path, 52)
    controls = ("--controls", "2")
    with JudgeServer(prefers(by_x, sharp=1.4)) as server:
        asks(gnomon, server, *controls)
        (first,) = tmp_path.glob("calibrations/*.json")
        asked = len(server.asked)
        since = ("--before", str(first.relative_to(tmp_path)))
        code, said = asks(gnomon, server, *controls, "--round", "same", *since)
        assert code == 0, said
        assert len(server.asked) == 2 * asked
        assert "not shown to be another" in said
        server.rule = prefers(lambda text: -by_x(text) + 0.05 * len(text), sharp=1.4)
        code, said = asks(gnomon, server, *controls, "--round", "changed", *since)
        assert code == 0, said
        strict = ("--judge", "ties=false", "--round", "strict")
        code, other = asks(gnomon, server, *controls, *strict, *since)
        assert code == 0, other
    assert "compared with another" in other
    assert "the model behind the same name has changed" not in other
    assert "the model behind the same name has changed" in said
    assert "it agrees with people less than in" in said
    records = {c.round: c for _, c in read_calibrations(tmp_path)}
    assert set(records) == {"", "same", "changed", "strict"}
    assert records["strict"].drift["model_changed"] is None
    assert records["changed"].drift["model_changed"] is True
    assert not records["changed"].opens_gates
    assert records["same"].drift["model_changed"] is False
    assert records["same"].drift["changed"]["value"] == 0.0
    assert records["same"].opens_gates
    code, said = asks(gnomon, server, "--round", "../x")
    assert (code, "--round '../x'" in said) == (1, True)


def test_its_own_models_answers_are_told_by_columns(gnomon: Run, tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        own, better = "ab"[i % 2], "ab"[i // 2 % 2]
        answers = {f"response_{side}": f"{'mine' if side == own else 'other'} {i}" for side in "ab"}
        who = {f"by_{side}": "me-7b" if side == own else "you-7b" for side in "ab"}
        rows.append({"id": i, "prompt": f"q{i}", "preference": better} | answers | who)
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with JudgeServer(prefers(lambda text: float("mine" in text), sharp=2.0)) as server:
        more = ("--authors", "by_a,by_b", "--own", "me-7b", "--controls", "0")
        code, said = asks(gnomon, server, *more)
        assert code == 0, said
        assert "it likes its own model's answers more than people do" in said
        code, said = asks(gnomon, server, "--authors", "by_a,by_c", "--controls", "0")
        assert (code, "no row of the labels has a column 'by_c'" in said) == (1, True)
        code, said = asks(gnomon, server, *more, "--own", "them")
        assert (code, "written by: me-7b, you-7b" in said) == (1, True)
    assert one(tmp_path).own.low > 0.2


def test_single_answers_are_calibrated_by_their_scores(gnomon: Run, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "completion": "x" * (1 + i % 20), "label": i % 20 > 8}
        for i in range(100)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    length = ("--judge", "builtin=length", "--judge", "unit=characters", "--judge", "high=10")
    options = ("labels.jsonl", *length, "--judge", "low=1")
    code, said = gnomon(*options, "--good-from", "-2")
    assert code == 0, said
    assert "good answers it calls good" in said
    found = one(tmp_path)
    assert found.good_from == -2
    assert found.labels == 100
    assert found.sensitivity is not None


def test_failures_are_counted_and_are_in_no_figure(gnomon: Run, tmp_path: Path) -> None:
    labels(tmp_path)

    def rule(text: str, body: dict[str, Any]) -> Any:
        a, b = answers(text)
        if "xxx" in a + b:
            return says("hm")(text, body)
        return letter({"A": 0.9, "B": 0.1} if by_x(a) > by_x(b) else {"A": 0.1, "B": 0.9})

    with JudgeServer(rule) as server:
        asks(gnomon, server, "--controls", "0")
    found = one(tmp_path)
    assert (found.labels, found.errors) == (40, 20)
    assert any("failed on 20 of 60" in w for w in found.warnings)


def test_a_judge_that_answers_nothing_is_an_error(gnomon: Run, tmp_path: Path) -> None:
    labels(tmp_path)
    with JudgeServer(says("hm")) as server:
        code, said = asks(gnomon, server)
    assert code == 1
    assert "failed on all 60 pairs" in said
    assert "not an answer in the form asked for: 'hm'" in said
    assert not list(read_calibrations(tmp_path))


def test_past_verdicts_are_calibrated_too(gnomon: Run, tmp_path: Path) -> None:
    labels(tmp_path)
    rows = [{"id": f"r{i}", "said": [1, 2, "Tie", "garbage"][i % 4]} for i in range(59)]
    (tmp_path / "past.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    options = ("--recorded", "past.jsonl", "--verdict", "said", "--verdicts", "1=a,2=b,Tie=tie")
    code, said = gnomon("labels.jsonl", *options)
    assert code == 0, said
    found = one(tmp_path)
    assert found.judge == "said"
    assert (found.labels, found.errors) == (45, 15)  # garbage, and the last without a verdict
    assert found.flips is None
    assert found.first is not None
    assert found.first.value == pytest.approx(0.5)
    code, said = gnomon("labels.jsonl", "--recorded", "past.jsonl", "--verdict", "sad")
    assert code == 1
    assert "did you mean 'said'?" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a judge to ask"),
        (("--judge", "modell=m"), "did you mean 'model'"),
        (("--judge", "model"), "or KEY=VALUE"),
        (("--judge", "builtin=lenght"), "did you mean 'length'"),
        (("--judge", "model=4", "--judge", "extra={a"), "is no list or object"),
        (("--judge", "model=4", "--judge", "url=http://x", "--judge", "seed=x"), "seed"),
        (("--recorded", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("--judge", "local=no-such-folder/x"), "no-such-folder"),
        (("--judge", "builtin=length", "--authors", "model_a"), "write COLUMN,COLUMN"),
        (
            ("--judge", "model=4", "--judge", "url=http://x", "--before", "none.json"),
            "none.json cannot be read",
        ),
        (
            ("--judge", "builtin=length", "--judge", "low=9", "--options", "votes=each"),
            "a file has none",
        ),
        (("--recorded", "labels.jsonl", "--good-from", "1"), "--good-from is for a judge"),
        (("--judge", "model=4", "--judge", "url=http://x", "--paraphrase", "no.txt"), "no.txt"),
    ],
)
def test_wrong_options(gnomon: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    labels(tmp_path)
    code, said = gnomon("labels.jsonl", *arguments)
    assert code == 1
    assert words in said


def test_recorded_verdicts_are_of_a_files_answers(gnomon: Run, tmp_path: Path) -> None:
    """A store orders an item's answers by what they hold, so that a verdict of `a` would be of
    either."""
    labels(tmp_path)
    code, said = gnomon("feedback:labels.db", "--recorded", "labels.jsonl")
    assert code == 1
    assert "a store keeps no such order" in said


def test_a_reward_model_is_a_judge_like_any_other(gnomon: Run, tmp_path: Path) -> None:
    """Its verdicts are those of transformers' own classifier on the same conversations."""
    labels(tmp_path)
    role = Role("reward", tw.trunk(3), head=tw.head(3))
    save_reward_model(tmp_path / "rm", role)
    code, said = gnomon("labels.jsonl", "--judge", "reward_model=rm", "--name", "mine")
    assert code == 0, said
    found = one(tmp_path)
    assert (found.judge, found.labels, found.errors) == ("mine", 60, 0)
    assert len(found.version) == 64
    plain = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "rm")

    @torch.no_grad()
    def score(prompt: str, text: str) -> float:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        chat = str(tokenizer.apply_chat_template(turns, tokenize=False)).rstrip()
        ids = tokenizer(chat, add_special_tokens=False, return_tensors="pt").input_ids
        return float(plain(input_ids=ids).logits[0, 0])

    prompts = {f"r{i}": f"question {i}" for i in range(60)}
    rows = [json.loads(x) for x in next(tmp_path.glob("calibrations/*.jsonl")).open()]
    for row in rows[:10]:
        a, b = (score(prompts[row["prompt_id"]], row[side]) for side in "ab")
        assert row["judge"] == float(a > b)


def test_a_judges_own_labels_do_not_vouch_for_it(
    gnomon: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    labels(tmp_path)
    others = (tmp_path / "labels.jsonl").read_text().replace("question", "riddle")
    (tmp_path / "others.jsonl").write_text(others)
    train = {"steps": 1, "batch_size": 4}
    stage = {"name": "rm", "algorithm": "reward_model", "data": "labels.jsonl", "train": train}
    raw = {"name": "run", "model": str(tiny_folder), "output": "runs", "stages": [stage]}
    run_recipe(parse_recipe(raw), base=tmp_path)
    judge = ("--judge", f"reward_model={tmp_path}/runs/run/stages/01-rm/model")
    for file, learned in (("labels.jsonl", True), ("others.jsonl", False)):
        code, said = gnomon(file, *judge, "--controls", "0", "--output", file.removesuffix("l"))
        assert code == 0, said
        found = one(tmp_path / file.removesuffix("l"))
        assert found.learned == learned
        assert ("the judge learned from these very labels" in said) == learned
        assert ("learned from the very labels" in found.doubt) == learned
        assert not (learned and found.opens_gates)


def test_labels_that_compare_nothing_are_an_error(gnomon: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    code, said = gnomon("labels.jsonl", "--judge", "builtin=length", "--judge", "low=9")
    assert code == 1
    assert "cannot be read as rankings" in said


def test_a_row_that_is_there_twice_is_one_label(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "preference": "a"}
    file = tmp_path / "twice.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (row, row)))
    (pair,) = labelled_pairs(read_groups(file, kind="rankings").groups)
    assert list(pair.people.values()) == [1.0]


def test_real_labels_of_three_people_beside_an_ai_judge(shared_data: Path) -> None:
    """Agreement by hand, from the raw rows, of a pair that is there twice by its last labels."""
    folder = shared_data / "pandalm"
    rows = [
        row.data for row in iter_rows(folder / "testset-v1.jsonl.gz") if isinstance(row, RawRow)
    ]
    verdicts = folder / "pandalm-7b-testset-v1.jsonl.gz"
    judged = [row.data for row in iter_rows(verdicts) if isinstance(row, RawRow)]
    said = {row["idx"]: row["pandalm_result"] for row in judged}
    groups = read_groups(folder / "testset-v1.jsonl.gz", kind="rankings").groups
    meaning = {1: "a", 2: "b", 0: "tie"}
    judge = RecordedJudge(verdicts, "pandalm_result", "idx", meaning)  # type: ignore[arg-type]
    found, _ = calibrate(judge, groups)
    read = {g.prompt.meta["idx"] for g in groups}
    won = {1: 1.0, 2: 0.0, 0: 0.5}
    asked, last = dict[Any, tuple[str, float]](), dict[Any, float]()
    for row in rows:
        if row["idx"] not in read:
            continue
        key = (
            " ".join(f"{row['instruction']}\n{row['input']}".split()).casefold(),
            frozenset((row["response1"].strip(), row["response2"].strip())),
        )
        theirs = [won[row[f"annotator{k}"]] for k in (1, 2, 3)]
        a, mine = asked.setdefault(key, (row["response1"], won[int(said[row["idx"]])]))
        theirs = theirs if a.strip() == row["response1"].strip() else [1 - x for x in theirs]
        last[key] = sum(1 - abs(mine - x) for x in theirs) / 3
    assert found.agreement is not None
    assert found.labels == len(last)
    assert found.agreement.value == pytest.approx(sum(last.values()) / len(last))
    assert found.people is not None
    assert found.people.value > 0.9
