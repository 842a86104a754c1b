"""The blind A/B: nothing tells which is which, nothing chosen is lost, the rows can be read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from view_world import add_answers, open_client, until, write_run

from gnomon.data.readers import read_groups
from gnomon.runs.answers import Answer, write_answers
from gnomon.stats.intervals import exact_interval

SIDES = {"a": "bad/answers/base", "b": "bad/answers/ppo"}


def _fields(text: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text))


def _asked(client, who="ann", **sides):
    return client.get(f"/ab?{urlencode({**SIDES, **sides, 'who': who})}")


def _answers(text: str) -> list[str]:
    """The answers in the order in which they are shown."""
    return re.findall(r'<div class="text" tabindex="0">([^<]*)</div></section>', text)


def _send(client, fields, choice, **headers):
    return client.post("/ab", content=urlencode({**fields, "choice": choice}), headers=headers)


def _choose(client, choice, who="ann"):
    """Choose for the next pair; "omega" and "alpha" choose by what the answer says."""
    text = _asked(client, who).text
    if choice in ("omega", "alpha"):
        choice = str(1 + [choice in a for a in _answers(text)].index(True))
    answered = _send(client, _fields(text), choice)
    assert answered.status_code == 303, answered.text
    return answered


def _file(runs: Path) -> Path:
    return next(f for f in (runs / "preferences").glob("*.jsonl") if "skipped" not in f.name)


def _rows(runs: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in _file(runs).read_text().splitlines()]


def test_every_pair_is_asked_once_and_every_choice_is_a_preference_that_a_stage_reads(client, runs):
    for i in range(9):
        assert f"{i} of 9 judged" in _asked(client).text
        _choose(client, "omega" if i != 4 else "tie")
    assert "All 9 pairs are judged" in _asked(client).text
    rows = _rows(runs)
    assert len({row["prompt"] for row in rows}) == 9
    for row in rows:
        assert row["labeller"] == "ann"
        assert row["guideline"] is None
        assert 0 <= row["seconds"] < 60
        first, second = str(row["response_a"]), str(row["response_b"])
        assert ("omega" in first) == (row["model_a"] == "bad/answers/ppo")
        assert ("alpha" in second) == (row["model_b"] == "bad/answers/base")
    result = read_groups(_file(runs), kind="preferences")
    assert not result.skipped
    assert len(result.groups) == 9
    better = [g.responses[g.comparisons[0].better].text for g in result.groups
              if not g.comparisons[0].tie]  # fmt: skip
    assert len(better) == 8
    assert all("omega" in text for text in better)
    assert sum(g.comparisons[0].tie for g in result.groups) == 1


def test_nothing_on_the_page_tells_which_is_which(tmp_path):
    write_run(tmp_path / "runs" / "bad")
    write_answers(tmp_path / "runs" / "bad", [
        Answer(model=model, prompt_id=f"q{i}", prompt=f"Ask {i}", response=f"{word} {i}")
        for model, word in (("base", "alpha"), ("ppo", "omega")) for i in range(200)
    ])  # fmt: skip
    client = open_client(tmp_path / "runs")
    firsts, orders = [], []
    for who in ("ann", "bob"):
        prompts = []
        for _ in range(60):
            text = _asked(client, who).text
            body = re.sub(r'(value|href)="[^"]*"', "", text[text.index("<main") :])
            assert "base" not in body
            assert "ppo" not in body
            assert (
                _asked(client, who).text.split("<main")[1].split("<form")[0]
                == (text.split("<main")[1].split("<form")[0])
            )  # loading the page again shows no other order
            firsts.append("omega" in _answers(text)[0])
            prompts.append(re.search(r"Ask \d+", text)[0])  # type: ignore[index]
            _send(client, _fields(text), "1")
        orders.append(prompts)
    share = exact_interval(sum(firsts), len(firsts), 0.9999)
    assert not share.excludes(0.5), firsts
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_the_result_is_the_win_rate_with_its_interval_and_only_on_demand(client, runs):
    for i in range(9):
        _choose(client, "alpha" if i < 2 else "omega")
    assert "0.778" not in _asked(client).text
    text = client.get(f"/ab/result?{urlencode(SIDES)}").text
    want = exact_interval(7, 9)
    assert f"0.778 [{want.low:.3f}, {want.high:.3f}] n=9" in text
    assert '<td>bad: ppo better</td><td class="n">7</td>' in text
    assert "Not told apart" in text
    assert "with a chance of 80%" in text
    swapped = client.get(f"/ab/result?{urlencode({'a': SIDES['b'], 'b': SIDES['a']})}").text
    assert f"0.222 [{1 - want.high:.3f}, {1 - want.low:.3f}] n=9" in swapped  # one file, either way


def test_undo_takes_back_the_last_choice_and_skip_is_no_preference(client, runs):
    _choose(client, "omega")
    _choose(client, "skip")
    _choose(client, "alpha")
    assert "3 of 9 judged" in _asked(client).text
    assert len(_rows(runs)) == 2
    _choose(client, "undo")  # alpha
    assert len(_rows(runs)) == 1
    _choose(client, "undo")  # the skip
    assert "1 of 9 judged" in _asked(client).text
    _choose(client, "undo")
    assert _rows(runs) == []
    _choose(client, "undo")  # there is nothing left
    assert "0 of 9 judged" in _asked(client).text
    _choose(client, "omega", who="bob")
    _choose(client, "undo", who="ann")
    assert len(_rows(runs)) == 1  # nobody takes back another's


def test_a_page_sent_twice_counts_once(client, runs):
    fields = _fields(_asked(client).text)
    for choice in ("1", "2", "1"):
        assert _send(client, fields, choice).status_code == 303
    assert [row["preference"] for row in _rows(runs)] == ["a"]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
)
def test_another_page_cannot_choose(client, runs, headers):
    assert _send(client, _fields(_asked(client).text), "1", **headers).status_code == 403
    assert not (runs / "preferences").exists()


@pytest.mark.parametrize(
    "change",
    [
        *({"csrf": "x"}, {"csrf": ""}, {"pair": "nope"}),
        *({"who": ""}, {"who": "x" * 61}, {"a": "x"}),
    ],
)
def test_a_form_that_is_not_ours_writes_nothing(client, runs, change):
    answered = _send(client, _fields(_asked(client).text) | change, "1")
    assert answered.status_code in (403, 404)
    assert "Traceback" not in answered.text
    assert not (runs / "preferences").exists()
    assert _send(client, _fields(_asked(client).text), "3").status_code == 404
    assert client.post("/ab", content=b"x" * 20_000).status_code == 413


def test_choices_wait_for_nothing_that_can_be_chosen(client, runs):
    for sides, word in (({"b": "bad/answers/base"}, "both sides are the same"),
                        ({"b": "bad/answers/none"}, "choose two again"),
                        ({"b": "bad/02-ppo/first"}, "answered no prompt in common")):  # fmt: skip
        answered = _asked(client, **sides)
        assert answered.status_code == 400
        assert word in answered.text
    assert "pseudonym" in _asked(client, who="").text
    first_last = {"a": "bad/02-ppo/first", "b": "bad/02-ppo/last"}
    assert "0 of 12 judged" in _asked(client, **first_last).text
    two_runs = {"a": "bad/02-ppo/first", "b": "plain/02-ppo/last"}
    assert "0 of 12 judged" in _asked(client, **two_runs).text


def test_half_a_line_of_a_killed_writer_costs_that_line_alone(client, runs):
    for _ in range(3):
        _choose(client, "omega")
    file = _file(runs)
    whole = file.read_bytes()
    with file.open("ab") as stream:
        stream.write(whole.splitlines()[0][:40])  # the process died here
    assert "3 of 9 judged" in _asked(client).text
    assert "was cut off" in client.get(f"/ab/result?{urlencode(SIDES)}").text
    _choose(client, "omega")
    assert file.read_bytes().startswith(whole)
    assert len(_rows(runs)) == 4


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from gnomon.view.app import Viewer
from gnomon.view.ballots import Ballots, order
from gnomon.view.sides import contest, sides
viewer = Viewer(Path({folder!r}))
found = sides(viewer.library, viewer.samples)
between = contest(found, {a!r}, {b!r})
ballots = Ballots(Path({folder!r}), between)
for n in range(10**6):
    who = f"p{{n}}"
    for pair, swapped in order(between.pairs, who, b"x"):
        ballots.choose(pair, swapped, "1", who, 1.0)
        print(who, pair.id, flush=True)
"""


def test_a_killed_program_loses_no_choice_that_it_took(client, runs, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(runs), **SIDES)
    log = tmp_path / "log"
    with log.open("wb") as stream:
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=stream)
        try:
            until(lambda: log.read_bytes().count(b"\n") > 30, 300)
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
    told = [tuple(line.split()) for line in log.read_text().splitlines()[:-1]]
    lines = _file(runs).read_text().split("\n")
    kept = {(row["labeller"], row["pair"]) for row in map(json.loads, lines[:-1])}
    assert set(told) <= kept
    _choose(client, "omega")  # and it goes on: no lock is left behind
    assert sum(row["labeller"] == "ann" for row in _rows(runs)) == 1


def test_a_folder_that_cannot_be_written_is_said(client, runs):
    fields = _fields(_asked(client).text)
    (runs / "preferences").write_text("a file is in the way")
    answered = _send(client, fields, "1")
    assert answered.status_code in (404, 500)
    assert "preferences" in answered.text
    assert "Traceback" not in answered.text
    assert "preferences" in _asked(client).text


def test_the_next_page_is_the_contest_s(client):
    where = urlsplit(_choose(client, "omega").headers["location"])
    assert where.path == "/ab"
    assert parse_qs(where.query)["who"] == ["ann"]
    assert not where.netloc


def test_names_of_models_do_not_hide_answers_of_two_runs(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name)
        add_answers(tmp_path / "runs" / name, "base", "ppo")
    client = open_client(tmp_path / "runs")
    text = _asked(client, a="one/answers/base", b="two/answers/ppo").text
    assert "0 of 9 judged" in text


def test_choices_between_answers_that_are_gone_do_not_count(client, runs):
    """The run was made anew under its name, and its policy answers otherwise now."""
    for _ in range(9):
        _choose(client, "omega")
    write_answers(runs / "bad", [
        Answer(model=model, prompt_id=f"q{i}", prompt=f"Ask {i}", response=f"{word} {i}")
        for model, word in (("base", "alpha"), ("ppo", "other"))
        for i in range(9)
    ])  # fmt: skip
    page = client.get(f"/ab/result?{urlencode(SIDES)}").text
    assert "9 of 9 choices are between answers that are no longer there" in page
    assert "Nothing has been judged yet" in page
