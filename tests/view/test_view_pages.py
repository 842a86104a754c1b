"""The pages as HTML: what they say, what they do not let through, what they read."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from view_world import (
    HOSTILE,
    STEPS,
    add_alarm,
    append_line,
    metric_row,
    open_client,
    sample_row,
    write_run,
)

from gnomon.report.curves import key_curves
from gnomon.report.ship import answer
from gnomon.runs.answers import Answer, write_answers
from gnomon.runs.lock import run_lock
from gnomon.runs.read import read_run
from gnomon.runs.rows import MetricsStore, SampleStore
from gnomon.view.follow import Lines, Metrics
from gnomon.view.library import Library


class _Read(HTMLParser):
    """Tags with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def _cell(text: str, name: str) -> str:
    """A run's row in the list."""
    start = text.index(f'href="/runs/{name}"')
    return text[start : text.index("</li>", start)]


# -- runs -----------------------------------------------------------------------------------------


def test_every_run_has_its_state_its_answer_its_alarms_and_its_last_figures(client, runs):
    text = client.get("/").text
    bad, plain = _cell(text, "bad"), _cell(text, "plain")
    for word in (">done<", ">hold<", "1 alarm: reward hacking", "2 stages done", "<dd>1</dd>"):
        assert word in bad, word
    assert answer(read_run(runs / "plain")).kind in plain
    assert "alarm" not in plain


def test_the_answer_is_the_report_s(client, runs):
    text = html.unescape(client.get("/runs/bad").text)
    said = answer(read_run(runs / "bad"))
    assert f"<b>{said.kind}</b>" in text
    for reason in said.reasons:
        assert reason.text in text


def test_states_of_runs_at_work_stopped_and_failed(runs):
    write_run(runs / "cut", done=False, steps=10)
    client = open_client(runs)
    assert ">stopped<" in _cell(client.get("/").text, "cut")  # no process works on it
    with run_lock(runs / "cut"):
        row = _cell(client.get("/").text, "cut")
    assert ">running<" in row
    assert f"stage 2 of 2, ppo: iteration 10 of {STEPS}" in row
    info = runs / "cut" / "stages" / "02-ppo" / "stage.json"
    info.write_text(json.dumps({"name": "ppo", "status": "failed", "error": HOSTILE}))
    assert ">failed<" in _cell(client.get("/").text, "cut")
    assert "<script>alert" not in client.get("/runs/cut").text


def test_a_running_run_is_read_by_its_new_bytes_alone(runs):
    write_run(runs / "live", done=False, steps=10)
    library = Library(runs)
    lines = runs / "live" / "stages" / "02-ppo" / "metrics.jsonl"
    assert library.open("live").run.stages[1].series("kl")[1][-1] == 1.0
    follower = next(m for m in library._metrics.values() if "02-ppo" in str(m.lines.path))
    before, size = follower.lines.read, lines.stat().st_size
    assert before == size
    append_line(lines, metric_row(11))
    added = lines.stat().st_size - size
    assert library.open("live").run.stages[1].series("kl")[1][-1] == 1.1
    assert follower.lines.read - before <= added + 64


@pytest.mark.parametrize("damage", ["half", "word", "list", "cut back", "gone", "again"])
def test_lines_that_grow_are_followed_through_damage(tmp_path, damage):
    file = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        append_line(file, metric_row(step))
    metrics = Metrics(file)
    assert metrics.columns()["step"].tolist() == [1, 2, 3, 4, 5]
    want, problem = [1, 2, 3, 4, 5, 6], None
    if damage == "half":
        append_line(file, json.dumps(metric_row(6))[:20])
        assert metrics.columns()["step"].tolist() == [1, 2, 3, 4, 5]
        assert metrics.lines.problem is None  # it may still be written
        append_line(file, json.dumps(metric_row(6))[20:] + "\n")
    elif damage in ("word", "list"):
        append_line(file, {"word": "half a li\n", "list": "[1, 2]\n"}[damage])
        append_line(file, metric_row(6))
        problem = "metrics.jsonl, line 6: not a row; left out"
    elif damage == "cut back":  # as a resumed run does: fewer rows, then others, of the same size
        whole = file.read_text().splitlines(keepends=True)
        file.write_text("".join(whole[:3]) + "".join(x.replace("0.1", "0.9") for x in whole[3:]))
        append_line(file, metric_row(6))
    elif damage == "again":
        file.unlink()
        for step in (1, 2):
            append_line(file, metric_row(step))
        want = [1, 2]
    else:
        file.unlink()
        assert metrics.columns() == {}
        return
    assert metrics.columns()["step"].tolist() == want
    assert metrics.lines.problem == problem


def test_a_reading_does_not_go_over_what_was_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    for step in range(1000):
        append_line(file, metric_row(step))
    lines = Lines(file)
    assert len(lines.advance()[0]) == 1000
    read = lines.read
    for _ in range(5):
        assert lines.advance() == ([], False)
    assert lines.read - read <= 5 * 64


@pytest.mark.parametrize(
    "damage", ["manifest", "recipe", "metrics", "samples", "audit", "gates", "stage", "lines"]
)
def test_a_damaged_run_says_what_could_not_be_read_and_hides_no_other(runs, damage):
    stage = runs / "bad" / "stages" / "02-ppo"
    if damage == "lines":
        shutil.rmtree(runs / "bad")
        write_run(runs / "bad", done=False, steps=5)
        append_line(stage / "metrics.jsonl", "\x00\x00\n")
        file = stage / "metrics.jsonl"
    elif damage in ("metrics", "samples"):
        file = stage / f"{damage}.parquet"
        file.write_bytes(b"PAR1 cut off")
        (stage / f"{damage}.jsonl").unlink()
    else:
        file = {"manifest": runs / "bad/manifest.json", "recipe": runs / "bad/recipe.yaml",
                "audit": runs / "bad/audit.json", "gates": runs / "bad/gates.json",
                "stage": stage / "stage.json"}[damage]  # fmt: skip
        file.write_text('{"findings": [')
    client = open_client(runs)
    assert "plain" in client.get("/").text
    for path in ("/runs/bad", "/runs/bad/02-ppo", "/runs/bad/02-ppo/samples", "/ab",
                 "/compare?run=bad&run=plain"):  # fmt: skip
        answered = client.get(path)
        assert answered.status_code == 200, path
        assert "Traceback" not in answered.text
    where = "/runs/bad/02-ppo/samples" if damage == "samples" else "/runs/bad"
    assert file.name in client.get(where).text


def test_what_is_no_run_is_not_listed_and_what_is_not_there_is_said(runs, tmp_path):
    (runs / "notes").mkdir()
    client = open_client(runs)
    assert "notes" not in client.get("/").text
    for path in ("/runs/nope", "/runs/..%2Fbad", "/runs/bad/09-x", "/compare?run=bad",
                 "/compare?run=bad&run=nope", "/runs/bad/02-ppo/prompt?sample=99999",
                 "/runs/bad/02-ppo/prompt?sample=x"):  # fmt: skip
        answered = client.get(path)
        assert answered.status_code == 404, path
        assert "Traceback" not in answered.text
    (tmp_path / "empty").mkdir()
    assert "There is no run" in open_client(tmp_path / "empty").get("/").text


def test_one_run_s_folder_is_a_library_of_one(runs):
    client = open_client(runs / "bad")
    assert 'href="/runs/bad"' in client.get("/").text
    assert client.get("/runs/bad").status_code == 200


# -- curves ---------------------------------------------------------------------------------------


def test_alarms_are_on_the_time_axis_and_on_the_curves(client):
    text = client.get("/runs/bad").text
    assert "Alarms over the steps: reward hacking (drift) from step 24" in text
    figures = re.findall(r'<figure class="plot">.*?</figure>', text, re.S)
    keys = text[text.index('id="curves"') : text.index('id="more-curves"')
                if 'id="more-curves"' in text else text.index('id="alarms"')]  # fmt: skip
    assert 1 <= keys.count("<figure") <= 4
    reward = next(f for f in figures if "Trained reward" in f)
    at = float(re.search(r'class="mark" x1="([\d.]+)"', reward)[1])  # type: ignore[index]
    line = re.search(r'class="mean" points="([^"]+)"', reward)[1]  # type: ignore[index]
    points = [tuple(map(float, p.split(","))) for p in line.split()]
    assert len(points) == STEPS
    assert at == pytest.approx(points[23][0], abs=0.2)  # the alarm stands at step 24, the 24th row
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # it only rose
    assert client.get("/runs/plain").text.count('class="mark"') == 0
    assert 'href="#alarm-1"><rect' in text
    assert 'id="alarm-1"' in text
    assert 'href="/runs/bad#alarm-1"><rect' in client.get("/runs/bad/02-ppo").text


def test_a_page_that_did_not_change_is_not_sent_again(client, runs):
    for path in ("/", "/runs/bad", "/runs/bad/02-ppo"):
        tag = client.get(path).headers["ETag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    add_alarm(runs / "bad", "now it shouts")
    for path in ("/", "/runs/bad", "/runs/bad/02-ppo"):
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 200
    assert "ow it shouts" in client.get("/runs/bad").text


def test_compare_draws_one_line_a_run_and_names_what_differs(client):
    text = client.get("/compare?run=bad&run=plain&metric=kl").text
    assert text.count("<figure") == 1
    figure = text[text.index("<figure") : text.index("</figure>")]
    assert figure.count('class="mean"') == 2
    assert "bad: ppo" in figure
    assert "plain: ppo" in figure
    row = text[text.index("ppo.settings.beta") :]
    assert re.findall(r'class="val">([^<]+)<', row)[:2] == ["0.1", "0.5"]
    assert "plain less bad" in text
    assert 'name="metric"' in text


def _judged(run: Path, judge: dict[str, object], value: float) -> None:
    """A comparison in which ``judge``, called alike in every run, gave the policy ``value``."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["compare"] = {"rewards": [{"name": "liked", **judge}], "prompts": "prompts.jsonl"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [
        {
            "model": model,
            "values": [{"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9.0}],
            "gains": [{"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9.0}],
        }
        for model, v in (("base", 0.0), ("ppo", value))
    ]
    said = {"columns": ["liked"], "reference": "base", "rows": rows}
    (run / "comparison.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"model": "judges/a"}, {"model": "judges/a"}, True),
        ({"model": "judges/a"}, {"model": "judges/b"}, False),
        ({"model": "sft"}, {"model": "sft"}, True),  # the runs' own, of one recipe up to it
        ({"model": "ppo"}, {"model": "ppo"}, False),  # beta is another there
    ],
)
def test_what_two_judges_of_one_name_gave_is_not_subtracted(client, runs, one, other, same):
    _judged(runs / "bad", one, 0.25)
    _judged(runs / "plain", other, 0.75)
    text = client.get("/compare?run=bad&run=plain").text
    for measure in ("liked", "gain in liked over base, paired"):
        row = text[text.index(f">{measure}<") :]
        cells = re.findall(r"<td[^>]*>(?:<[^>]+>)*([^<]*)", row)[:3]
        assert [cells[0][:5], cells[1][:5]] == ["0.250", "0.750"]
        assert cells[2].startswith("0.500") if same else cells[2] == "another judge"


def test_a_recipes_value_is_shown_by_what_it_says(client, runs):
    recipe = yaml.safe_load((runs / "plain" / "recipe.yaml").read_text())
    recipe["stages"][1]["reward"] = [{"function": None, "builtin": "maths"}, {"model": "rm"}]
    (runs / "plain" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = html.unescape(client.get("/compare?run=bad&run=plain").text)
    assert "[{builtin: maths}, {model: rm}]" in text
    assert "None" not in text[text.index("ppo.reward") :]


def test_what_was_logged_once_is_no_curve_among_the_first(tmp_path):
    run = write_run(tmp_path / "run", done=False, steps=0)
    store = MetricsStore(run / "stages" / "02-ppo" / "metrics.parquet")
    for step in range(1, 6):
        row = {"step": step, "reward": step / 5, "kl": step**2, "length": 9 - step}
        store.append({**row, "entropy": 1 / step, **({"accuracy": 0.5} if step == 5 else {})})
    store.close()
    view = read_run(run)
    assert key_curves(view, view.stages[-1]) == ["reward", "kl", "length", "entropy"]


# -- samples --------------------------------------------------------------------------------------


def _shown(text: str) -> list[dict[str, str | None]]:
    return [attrs for tag, attrs in _Read(text).tags if "data-row" in attrs]


def _found(text: str) -> str:
    return re.search(r'id="found">([^<]+)<', text)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "count", "holds"),
    [
        ("", 36, lambda r: True),
        ("text=lighthouse", 9, lambda r: "lighthouse" in r["response"]),
        ("text=LIGHTHOUSE+question", 9, lambda r: "lighthouse" in r["response"]),
        ("category=facts", 18, lambda r: r["category"] == "facts"),
        ("first=2&last=20", 12, lambda r: r["step"] == 20),
        ("low=0.5&high=0.7", None, lambda r: r["reward"] is not None and 0.5 <= r["reward"] <= 0.7),
        ("finished=no", 9, lambda r: not r["finished"]),
        ("error=yes", 6, lambda r: r["error"] is not None),
        ("prompts=held-out", 24, lambda r: r["evaluation"] is not None),
        ("prompts=training&finished=yes", 9, lambda r: r["step"] == 20 and r["finished"]),
        ("text=nothing+like+it", 0, lambda r: False),
    ],
)
@pytest.mark.parametrize("done", [True, False])
def test_filters_leave_what_they_say(tmp_path, query, count, holds, done):
    write_run(tmp_path / "runs" / "one", done=done)
    rows = [sample_row(s, i, s != 20) for s in (1, 20, STEPS) for i in range(12)]
    want = sum(holds(row) for row in rows)
    assert count is None or count == want
    text = open_client(tmp_path / "runs").get(f"/runs/one/02-ppo/samples?{query}").text
    assert _found(text).startswith(f"{want} of 36 samples")


def test_orders_and_pages(client):
    url = "/runs/bad/02-ppo/samples"
    worst = [r["data-reward"] for r in _shown(client.get(url).text)]
    assert worst[:6] == [""] * 6  # failed ones first
    assert worst[6:] == sorted(worst[6:], key=float)
    best = [float(r["data-reward"]) for r in _shown(client.get(f"{url}?order=best").text)]
    assert best == sorted(best, reverse=True)
    longest = [int(r["data-length"]) for r in _shown(client.get(f"{url}?order=longest").text)]
    assert longest == sorted(longest, reverse=True)
    first = client.get(f"{url}?order=earliest").text
    assert "page 1 of 2" in _found(first)
    assert "page=2&amp;" in first or "page=2" in first
    assert len(_shown(first)) == 25
    assert len(_shown(client.get(f"{url}?order=earliest&page=2").text)) == 11
    for wrong in ("page=0", "page=-1", "page=x", "page=99", "order=none", "low=x", "first=1e999"):
        assert client.get(f"{url}?{wrong}").status_code == 200


def test_before_and_after_on_the_same_prompt(client):
    url = "/runs/bad/02-ppo"
    text = client.get(f"{url}/samples?order=earliest&text=question+3?").text
    link = re.search(r"prompt\?sample=\d+", text)[0]  # type: ignore[index]
    shown = client.get(f"{url}/{link}").text
    assert "Before and after" in shown
    before, after = shown.index("Answer 3 of step 1"), shown.index(f"Answer 3 of step {STEPS}")
    assert before < after < shown.index("Answer 3 of step 20")  # between, folded
    assert "Answer 2 of" not in shown


def test_new_samples_of_a_running_stage_are_there_at_once(tmp_path):
    run = write_run(tmp_path / "runs" / "one", done=False)
    client = open_client(tmp_path / "runs")
    url = "/runs/one/02-ppo/samples"
    assert _found(client.get(url).text).startswith("36 of 36")
    append_line(run / "stages/02-ppo/samples.jsonl", sample_row(41, 1, False, "a new one"))
    append_line(run / "stages/02-ppo/samples.jsonl", '{"step": 42, "prom')
    text = client.get(f"{url}?order=latest").text
    assert _found(text).startswith("37 of 37")
    assert text.index("a new one") < text.index("Answer")


def test_a_hundred_thousand_samples_are_paged(tmp_path):
    run = write_run(tmp_path / "runs" / "one")
    file = run / "stages/02-ppo/samples.parquet"
    n = 100_000
    table, _ = SampleStore.read_table(file, True)
    many = pa.concat_tables([table.slice(0, 36)] * (n // 36 + 1)).slice(0, n)
    pq.write_table(many, file, compression="zstd")
    client = open_client(tmp_path / "runs")
    began, own = time.perf_counter(), time.process_time()
    text = client.get("/runs/one/02-ppo/samples?text=lighthouse&order=longest").text
    first, own = time.perf_counter() - began, time.process_time() - own
    began = time.perf_counter()
    again = client.get("/runs/one/02-ppo/samples?text=lighthouse&order=best&page=7").text
    print(f"{n} samples: first page {first:.2f} s, another {time.perf_counter() - began:.2f} s")
    assert f"of {n} samples" in _found(text)
    assert len(_shown(text)) == len(_shown(again)) == 25
    assert len(text) < 100_000
    assert own < 20  # seconds; a page that loaded all would take minutes in a browser


# -- hostile text ---------------------------------------------------------------------------------


def test_hostile_text_is_text_wherever_it_comes_from(tmp_path):
    name = "<b onmouseover=alert(1)>run"
    run = write_run(tmp_path / "runs" / name, done=False)
    add_alarm(run, HOSTILE)
    stage = run / "stages" / "02-ppo"
    row = sample_row(50, 1, True) | {
        "prompt": HOSTILE, "response": HOSTILE, "prompt_id": HOSTILE, "category": HOSTILE,
        "error": HOSTILE, "parts": json.dumps({HOSTILE: 1.0}),
    }  # fmt: skip
    append_line(stage / "samples.jsonl", row)
    append_line(stage / "metrics.jsonl", metric_row(41) | {HOSTILE: 1.0, "note": HOSTILE})
    append_line(stage / "metrics.jsonl", metric_row(42) | {HOSTILE: 2.0})
    write_answers(run, [
        Answer(model=m, prompt_id=HOSTILE, category=HOSTILE, prompt=HOSTILE, response=HOSTILE + m)
        for m in (HOSTILE, "b")
    ])  # fmt: skip
    write_run(tmp_path / "runs" / "other")
    client = open_client(tmp_path / "runs")
    at = f"/runs/{quote(name, safe='')}"
    two = {"a": f"{name}/answers/{HOSTILE}", "b": f"{name}/answers/b", "who": HOSTILE[:60]}
    samples, sides = f"{at}/02-ppo/samples", urlencode(two)
    paths = [
        *("/", at, f"{at}/02-ppo", samples, f"{samples}?text={quote(HOSTILE)}"),
        *(f"{samples}?category={quote(HOSTILE)}", f"{at}/02-ppo/prompt?sample=36", "/ab"),
        *(f"/ab?{sides}", f"/ab/result?{sides}", f"/runs/{quote(HOSTILE, safe='')}"),
        *(f"/compare?{urlencode({'run': run})}&run=other" for run in (name, HOSTILE)),
    ]
    seen = 0
    for path in paths:
        answered = client.get(path)
        assert answered.status_code in (200, 404), path
        page = _Read(answered.text)
        scripts = [attrs for tag, attrs in page.tags if tag == "script"]
        assert scripts == [{"src": "/view.js", "defer": None}], path
        assert not [tag for tag, attrs in page.tags if tag == "img"], path
        assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")], path
        seen += "<script>alert('x')</script>" in " ".join(page.texts)
    assert seen >= 6  # it is there, as text
