"""``gnomon judge``: labels at a real endpoint, stopped, resumed, over its budget, and explained."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from command import Run, runs
from gnomon.data.readers import read_groups
from gnomon.feedback.from_groups import settled
from gnomon.feedback.label_files import LabelFile, read_file
from gnomon.feedback.records import Label, votes
from judge_server import JudgeServer, Said, letter, prefers, says, words


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    return runs(tmp_path, monkeypatch, capsys, "judge")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def questions(folder: Path, n: int = 6, k: int = 2) -> str:
    """Answers without a verdict, the longer ones in different places."""
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"question {i}",
            "responses": [f"a{i}" + "x" * ((i + j) % k) for j in range(k)],
        }
        for i in range(n)
    ]
    return write(folder / "data.jsonl", rows)


def asks(server: JudgeServer, **options: Any) -> list[str]:
    given = {"model": "m", "url": server.url, "retries": 0} | options
    return [part for key, value in given.items() for part in ("--judge", f"{key}={value}")]


def labels(path: Path) -> list[Label]:
    return [label for _, own in read_file(path) for label in own]


def test_pairs_become_soft_labels_and_preference_data(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)
    with JudgeServer(prefers(len, first=0.5)) as server:
        code, text = gnomon(data, *asks(server, price_input=1.0))
        assert code == 0, text
        assert len(server.asked) == 12
        again, _ = gnomon(data, *asks(server, price_input=1.0))
        assert (again, len(server.asked)) == (0, 12)
    assert "6 of 6 items labelled: labels.jsonl" in text
    assert "1212 tokens" in text
    assert "wins of the answer shown first" in text
    found = labels(tmp_path / "labels.jsonl")
    assert len(found) == 6
    for label in found:
        assert (label.labeller, label.kind) == ("ai:m", "ranking")
        assert label.guideline.startswith("m prompt=")
        assert label.cost.tokens == 202
        assert label.cost.money == pytest.approx(200 / 1e6)
        assert label.at
    read = read_groups(tmp_path / "labels.jsonl", kind="preferences")
    assert not read.skipped
    for group, label in zip(read.groups, found, strict=True):
        c = group.comparisons[0]
        better = group.responses[c.better].text
        assert len(better) > len(group.responses[c.worse].text)
        assert c.probability > 0.5
        assert label.confidence == pytest.approx(2 * c.probability - 1)
    assert [v.won for v in votes(found)] == [float(label.ranks[0] == 1) for label in found]


def test_two_judges_in_one_file_leave_each_item_once_with_both_labels(
    gnomon: Run, tmp_path: Path
) -> None:
    data = questions(tmp_path)
    with JudgeServer(prefers(len, first=0.5)) as server:
        assert gnomon(data, *asks(server))[0] == 0
        alone = read_groups(tmp_path / "labels.jsonl", kind="preferences").groups
        other = [*asks(server, rubric="Be brief."), "--name", "other"]
        assert gnomon(data, *other)[0] == 0
        asked = len(server.asked)
        for judge in (asks(server), other):  # neither is asked again
            assert gnomon(data, *judge)[0] == 0
        assert len(server.asked) == asked
    rows = list(read_file(tmp_path / "labels.jsonl"))
    assert [[label.labeller for label in own] for _, own in rows] == [["ai:m", "ai:other"]] * 6
    both = read_groups(tmp_path / "labels.jsonl", kind="preferences").groups
    assert [g.prompt.messages for g in both] == [g.prompt.messages for g in alone]
    assert [len(g.comparisons) for g in both] == [2] * 6
    calibrated = settled(both, "calibrated")[0]
    assert [len(g.comparisons) for g in calibrated] == [1] * 6
    # two files put together, and one of them twice, are the same
    text = (tmp_path / "labels.jsonl").read_text()
    single = "".join(json.dumps({**row, "labels": [json.loads(line)["labels"][i]]}) + "\n"
                     for line in text.splitlines() for row in [json.loads(line)]
                     for i in (0, 1, 0))  # fmt: skip
    (tmp_path / "cat.jsonl").write_text("# by two judges\n\n" + single + '{"half')
    with LabelFile(tmp_path / "cat.jsonl"):
        pass
    assert [own for _, own in read_file(tmp_path / "cat.jsonl")] == [own for _, own in rows]
    assert (tmp_path / "cat.jsonl").read_text().endswith("}\n# by two judges\n\n")


def test_explain_shows_what_was_asked_and_answered(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path, n=2)
    with JudgeServer(prefers(len, sharp=2.0)) as server:
        gnomon(data, *asks(server, rubric="Be brief.", price_input=1.0))
    label = labels(tmp_path / "labels.jsonl")[0]
    for id in (label.id, label.item[:10], "q0"):
        code, text = gnomon("explain", "labels.jsonl", id)
        assert code == 0
        assert f"label {label.id} of item {label.item} by ai:m" in text
        assert "shown in the order 1, 2" in text
        assert "shown in the order 2, 1" in text
        assert text.count("> Be brief.") == 2
        assert text.count("> question 0") == 2
        assert "probabilities: A 0.881, B 0.119" in text
        assert "202 tokens, 0.000200 euros" in text
    short = gnomon("explain", "labels.jsonl", "q0", "--no-questions")[1]
    assert "question 0" not in short
    code, text = gnomon("explain", "labels.jsonl", "q7")
    assert code == 1
    assert "no label, item or prompt 'q7'" in text


def test_a_rubrics_verdicts_are_in_the_label(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path, n=2)
    (tmp_path / "judge.yaml").write_text(
        "mode: rubric\nrubric_file: manners.yaml\nprice_input: 1\n"
    )
    (tmp_path / "manners.yaml").write_text(
        "version: 2\ncriteria: [{text: is long, weight: 2, name: long}, {text: is odd, weight: -1, "
        "name: odd}]\n"
    )

    def rule(text: str, body: dict[str, Any]) -> Said:
        p = 0.25 if "is odd" in text else (0.75 if "x" in text.split("answer>>>")[1] else 0.5)
        return letter({"yes": p, "no": 1 - p})

    with JudgeServer(rule) as server:
        code, text = gnomon(data, "--judge", "judge.yaml", *asks(server))
    assert code == 0, text
    found = labels(tmp_path / "labels.jsonl")
    assert all(label.principle == "manners@2" and label.kind == "rating" for label in found)
    assert sorted(found[0].ratings) == pytest.approx([0.375, 0.625])  # type: ignore[type-var]
    assert "long 0.75; odd 0.25" in found[0].comment
    rows = [row for row, _ in read_file(tmp_path / "labels.jsonl")]
    assert {r["parts"]["long"] for r in rows[0]["responses"]} == {0.5, 0.75}
    assert "judged by manners@2" in gnomon("explain", "labels.jsonl", "q0")[1]
    assert len(read_groups(tmp_path / "labels.jsonl", kind="preferences").groups) == 2


def test_approvals_of_single_answers_are_unpaired_data(gnomon: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "good" * (i % 2) or "bad"} for i in range(4)]
    data = write(tmp_path / "data.jsonl", rows)

    def rule(text: str, body: dict[str, Any]) -> Said:
        return letter(
            {"good": 0.9, "bad": 0.1} if "goodx" in text + "x" else {"good": 0.2, "bad": 0.8}
        )

    with JudgeServer(lambda t, b: rule("goodx" if "\ngood\n" in t else "", b)) as server:
        code, text = gnomon(data, *asks(server, mode="approval"))
    assert code == 0, text
    groups = read_groups(tmp_path / "labels.jsonl", kind="unpaired").groups
    assert {g.responses[0].text: g.responses[0].meta["label"] for g in groups} == {
        "good": True,
        "bad": False,
    }
    assert {
        label.approvals[0]: label.confidence for label in labels(tmp_path / "labels.jsonl")
    } == {
        True: pytest.approx(0.8),
        False: pytest.approx(0.6),
    }


def test_a_panel_leaves_a_label_of_each_and_their_mean(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)
    (tmp_path / "judge.yaml").write_text("panel: [{model: long}, {model: short}]\n")

    def rule(text: str, body: dict[str, Any]) -> Said:
        sign = 1 if body["model"] == "long" else -3
        return prefers(lambda t: sign * len(t))(text, body)

    with JudgeServer(rule, models=("long", "short")) as server:
        code, text = gnomon(data, "--judge", "judge.yaml", "--judge", f"url={server.url}")
    assert code == 0, text
    assert "verdicts on which the panel's members differ 1.000" in text
    assert "long: " in text
    found = labels(tmp_path / "labels.jsonl")
    assert [label.labeller for label in found[:2]] == ["ai:long", "ai:short"]
    assert found[0].ranks == found[1].ranks[::-1]
    row = next(iter(read_file(tmp_path / "labels.jsonl")))[0]
    shorter = min(row["responses"], key=lambda r: len(r["text"]))
    assert row["comparisons"][0]["better"] == shorter["id"]
    assert shorter["score"] == pytest.approx((1 - 0.731 + 0.953) / 2, abs=1e-3)
    assert shorter["parts"]["disagreement"] > 0.3


def test_a_judge_that_always_says_a_is_named(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path, n=12)
    with JudgeServer(says("A")) as server:
        code, text = gnomon(data, *asks(server))
    assert code == 0
    assert "the judge says 'A' in 100% of its 24 verdicts" in text
    assert "the answer shown first is better in 100% of its verdicts" in text
    assert "its commonest verdict, 'A' 1.000 [" in text
    assert all(label.ranks == (1.0, 1.0) for label in labels(tmp_path / "labels.jsonl"))


def test_what_fails_gets_no_label_and_is_asked_again(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)
    down: list[int] = [1]

    def rule(text: str, body: dict[str, Any]) -> Said:
        if "question 3" in text and down:
            return Said(status=500, body={"error": {"message": "boom"}})
        return prefers(len)(text, body)

    with JudgeServer(rule) as server:
        code, text = gnomon(data, *asks(server), "--patience", "0")
        assert code == 1
        assert "the judge failed on 1 of 6 items" in text
        assert "boom" in text
        assert "question 3" not in (tmp_path / "labels.jsonl").read_text()
        failed = json.loads((tmp_path / "labels.jsonl.asked" / "failed.jsonl").read_text())
        assert failed["prompt"] == "q3"
        asked = len(server.asked)
        down.clear()
        code, text = gnomon(data, *asks(server))
        assert (code, len(server.asked)) == (0, asked + 2)
    assert "6 of 6 items labelled (5 before)" in text
    assert not (tmp_path / "labels.jsonl.asked" / "failed.jsonl").read_text()


def test_a_budget_ends_cleanly_and_a_higher_one_goes_on(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path, n=8)
    with JudgeServer(prefers(len)) as server:
        price = asks(server, price_input=1e4)
        code, text = gnomon(data, *price, "--budget", "14")
        assert code == 5
        assert "the budget is spent" in text
        assert "goes on from there" in text
        done, asked = len(labels(tmp_path / "labels.jsonl")), len(server.asked)
        assert 0 < done < 8
        assert asked <= 14
        code, text = gnomon(data, *price, "--budget", "50")
        assert (code, len(server.asked)) == (0, 16)
    assert len({label.item for label in labels(tmp_path / "labels.jsonl")}) == 8
    assert "8 of 8 items labelled" in text


def test_no_endpoint_stops_with_what_is_wrong(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)
    with JudgeServer(says("A"), models=("llama",)) as server:
        code, text = gnomon(data, *asks(server, model="lama"))
    assert code == 1
    assert "the judge answered nothing" in text
    assert "it serves llama" in text
    assert not (tmp_path / "labels.jsonl").exists()


def test_killed_with_9_it_pays_for_nothing_twice(tmp_path: Path) -> None:
    data = questions(tmp_path, n=20)
    asked: dict[str, int] = {}
    child: list[subprocess.Popen[bytes]] = []
    started, killed = threading.Event(), threading.Event()

    def rule(text: str, body: dict[str, Any]) -> Said:
        assert started.wait(60)
        if len(asked) == 13 and not killed.is_set():
            child[0].kill()
            killed.set()
            return Said(drop=True)
        asked[text] = asked.get(text, 0) + 1
        return prefers(len)(text, body)

    with JudgeServer(rule) as server:
        command = [sys.executable, "-c", "from gnomon.cli.main import main; main()", "judge", data]
        command += asks(server, concurrency=1)
        child.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))
        started.set()
        code = child[0].wait(300)
        assert code == -signal.SIGKILL
        kept = (tmp_path / "labels.jsonl.asked" / "answers.jsonl").read_text().splitlines()
        assert 12 <= len(kept) <= 13
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    assert len(asked) == 40
    assert sum(asked.values()) <= 41  # the one that was on its way when it was killed
    assert len({label.item for label in labels(tmp_path / "labels.jsonl")}) == 20


def test_into_a_store_and_out_of_it(gnomon: Run, tmp_path: Path) -> None:
    from gnomon.feedback.store import Store

    data = questions(tmp_path, n=4)
    with JudgeServer(prefers(len)) as server:
        code, text = gnomon(data, *asks(server), "--out", "labels.db", "--campaign", "pilot")
        assert code == 0, text
        code, _ = gnomon("labels.db", *asks(server), "--out", "labels.db", "--campaign", "pilot")
        assert (code, len(server.asked)) == (0, 8)
        code, text = gnomon(
            "labels.db", *asks(server, mode="score"), "--out", "labels.db", "--judge", "ties=true"
        )
        assert code == 1
        server.rule = says("7")
        code, text = gnomon("labels.db", *asks(server, mode="score"), "--out", "labels.db")
        assert code == 0, text
    with Store.open(tmp_path / "labels.db") as store:
        assert len(list(store.items("pilot"))) == 4
        found = list(store.labels("pilot"))
        assert [label.kind for label in found].count("ranking") == 4
        assert [label.kind for label in found].count("rating") == 4
        assert {one.kind for one in store.people.all()} == {"model"}
        own = Label("by-anna", found[0].item, "anna", "ranking", ranks=(1.0, 2.0))
        store.add_labels([own], add_labellers="person")
    code, text = gnomon("explain", "labels.db", found[0].item)
    assert code == 0, text
    assert "by anna" in text
    assert "probabilities: " in text


def test_a_runs_samples_are_labelled(gnomon: Run, tmp_path: Path) -> None:
    from gnomon.runs.rows import SampleStore

    stage = tmp_path / "run" / "stages" / "01-grpo"
    stage.mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("name: run\n")
    (stage / "stage.json").write_text('{"name": "grpo", "status": "running"}')
    with_rows = SampleStore(stage / "samples.parquet")
    for step in (1, 2):
        for i in range(3):
            row = {"step": step, "prompt_id": f"p{i // 2}", "prompt": f"question {i // 2}"}
            with_rows.append(row | {"response": f"a{step}{'x' * i}", "reward": 0.0})
    with JudgeServer(says("5")) as server:
        code, text = gnomon("run", *asks(server, mode="score"), "--stage", "grpo")
        assert code == 0, text
        assert "4 of 4 items" in text
        assert len(server.asked) == 6
        code, text = gnomon("run", *asks(server, mode="score"), "--stage", "dpo")
    assert code == 1
    assert "has no stage 'dpo'; it has grpo" in text


@pytest.mark.parametrize(
    ("rows", "more", "text"),
    [
        ([{"prompt": "x"}], [], "there is nothing to judge"),
        ([{"prompt": "x", "responses": ["a", "b"]}], ["--judge", "tempreature=1"], "temperature"),
        ([{"prompt": "x", "responses": ["a", "b"]}], ["--judge", "none.yaml"], "no such file"),
        (
            [{"prompt": "x", "responses": ["a", "b"]}],
            ["--judge", "builtin=gold"],
            "language models",
        ),
        ([{"prompt": "x", "responses": ["a", ""]}], [], "empty response"),
        ([{"prompt": "x", "responses": ["a"]}], [], "there is only one"),
    ],
)
def test_wrong_input(
    gnomon: Run, tmp_path: Path, rows: list[dict[str, Any]], more: list[str], text: str
) -> None:
    data = write(tmp_path / "data.jsonl", rows)
    with JudgeServer(says("A")) as server:
        code, said = gnomon(data, *asks(server), *more)
        assert not server.asked
    assert code == 1
    assert text in said


def test_two_answers_without_a_verdict_are_read(gnomon: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "response_a": "a", "response_b": "bb"} for i in range(3)]
    data = write(tmp_path / "data.jsonl", [*rows, {"prompt": "", "response_a": "x"}])
    with JudgeServer(lambda text, body: words("A")) as server:
        code, text = gnomon(data, *asks(server))
    assert code == 0
    assert "1 skipped" in text or "skipped" in text
    assert len(labels(tmp_path / "labels.jsonl")) == 3


def test_hostile_answers_are_kept_as_text(gnomon: Run, tmp_path: Path) -> None:
    evil = "\x1b[31m<script>alert(1)</script>\u202e'; DROP TABLE labels; --" + "x" * 100_000
    rows = [{"prompt": "[bold]q[/]", "responses": [evil, "fine [/oops]"]}]
    data = write(tmp_path / "data.jsonl", rows)
    with JudgeServer(prefers(len, sharp=1e-3)) as server:
        code, text = gnomon(data, *asks(server), "--out", "labels.db")
        assert code == 0, text
    code, text = gnomon("explain", "labels.db", "data-1")
    assert code == 0
    assert "\x1b[31m" not in text
    assert "[/oops]" in text


def test_a_quorums_labels_are_written_once(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)

    def rule(text: str, body: dict[str, Any]) -> Said:
        return words("no idea") if body["model"] == "mute" else prefers(len)(text, body)

    with JudgeServer(rule, models=("long", "other", "mute")) as server:
        given = ["--judge", "panel=[{model: long}, {model: other}, {model: mute}]"]
        given += ["--judge", "quorum=2", "--judge", f"url={server.url}"]
        for out in ("labels.jsonl", "labels.db"):
            assert gnomon(data, *given, "--out", out)[0] == 0
            code, text = gnomon(data, *given, "--out", out)
            assert code == 0, text
            assert "6 of 6 items labelled (6 before)" in text
    found = labels(tmp_path / "labels.jsonl")
    assert len(found) == len({label.id for label in found}) == 12


def test_who_labelled_alone_may_join_a_panel(gnomon: Run, tmp_path: Path) -> None:
    from gnomon.feedback.store import Store

    data = questions(tmp_path)
    with JudgeServer(prefers(len), models=("long", "other")) as server:
        price = ["--judge", f"url={server.url}", "--judge", "price_input=1.0"]
        assert gnomon(data, "--judge", "model=long", *price, "--out", "labels.db")[0] == 0
        both = ["--judge", "panel=[{model: long}, {model: other}]", *price]
        code, text = gnomon(data, *both, "--out", "labels.db")
        assert code == 0, text
    with Store.open(tmp_path / "labels.db") as store:
        found = list(store.labels())
    assert sorted(label.labeller for label in found) == ["ai:long"] * 6 + ["ai:other"] * 6
    assert sum(label.cost.tokens for label in found) == 101 * len(server.asked)


def test_an_answer_of_which_it_is_not_sure_is_not_called_bad(gnomon: Run, tmp_path: Path) -> None:
    data = questions(tmp_path)
    with JudgeServer(lambda text, body: letter({"good": 0.5, "bad": 0.5})) as server:
        code, text = gnomon(data, *asks(server, mode="approval"))
    assert code == 0, text
    row, (label,) = next(iter(read_file(tmp_path / "labels.jsonl")))
    assert label.approvals == (None, None)
    assert [r.get("label") for r in row["responses"]] == [None, None]


def test_labels_are_not_corrected(gnomon: Run, tmp_path: Path) -> None:
    given = ["--judge", "model=m", "--judge", "url=http://x/v1", "--judge", "corrected=true"]
    code, text = gnomon(questions(tmp_path), *given)
    assert code == 1
    assert "corrected is for a recipe's reward" in text


def test_a_judge_is_not_calibrated_on_its_own_labels(gnomon: Run, tmp_path: Path) -> None:
    from gnomon.cli.calibrate import Reading
    from gnomon.errors import ConfigError
    from gnomon.feedback.store import Store

    def read(**options: str) -> list[Any]:
        labels = Reading("feedback:labels.db", "auto", None, None, {}, {}, options)
        return [name for group in labels.groups() for name in group.prompt.meta["labellers"]]

    with JudgeServer(prefers(len)) as server:
        for out in ("labels.db", "labels.jsonl"):
            assert gnomon(questions(tmp_path), *asks(server), "--out", out)[0] == 0
    with pytest.raises(ConfigError, match="0 labels by people"):
        read()
    with pytest.raises(ConfigError, match="labels by language models"):
        Reading("labels.jsonl", "auto", None, None, {}, {}, {}).groups()
    with Store.open(tmp_path / "labels.db") as store:
        item = next(iter(store.items()))
        own = Label("by-anna", item.id, "anna", "ranking", ranks=(1.0, 2.0))
        store.add_labels([own], add_labellers="person")
    assert read() == ["anna"]
    assert sorted(read(by="all")) == ["ai:m"] * 6 + ["anna"]
