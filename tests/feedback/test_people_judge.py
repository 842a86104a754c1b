"""People as a judge through a store: what they are asked, what their labels become, and a run that
waits, is killed, and goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from command import Run, runs
from forked import start_command
from gnomon.cli.run import wait_for
from gnomon.errors import ConfigError, Pending, RunError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.people_judge import PeopleJudge
from gnomon.feedback.records import Item, Label
from gnomon.feedback.store import Store
from gnomon.judges.build import one_judge
from gnomon.judges.protocol import is_skipped, judged
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Cost, Group, Message, Prompt, Response, Score
from gnomon.training.sampled import failures

ASK = Prompt("p", (Message("user", "which?"),), meta={"answer": "x"})


def group(*texts: str, prompt: Prompt = ASK) -> Group:
    return Group(
        prompt, tuple(Response((Message("assistant", text),), ids=(1, 2)) for text in texts)
    )


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., PeopleJudge]:
    """A judge whose stage is ``01-s`` of run ``run``."""

    def made(**options: Any) -> PeopleJudge:
        folder = tmp_path / "runs/run/stages/01-s/queue"
        return PeopleJudge(base=tmp_path, folder=folder, **options)

    return made


def said(judge: PeopleJudge, who: str, better: Callable[[str], float], **more: Any) -> None:
    """A person ranks every item of the campaign by a score of the text, the higher the better."""
    with Store.open(judge.store) as store:
        judged_already = {x.item for x in store.labels(judge.campaign, labeller=who)}
        labels = [
            ranked(item, who, better, **more)
            for item in store.items(judge.campaign)
            if item.id not in judged_already
        ]
        store.add_labels(labels, add_labellers="person")


def ranked(item: Item, who: str, better: Callable[[str], float], **more: Any) -> Label:
    scores = [better(response.text) for response in item.responses]
    ranks = tuple(1.0 + sum(other > own for other in scores) for own in scores)
    fields: dict[str, Any] = {"kind": "ranking", "ranks": ranks, "cost": Cost(12.0, 0, 0.4)}
    return Label(id=f"{item.id[:20]}-{who}", item=item.id, labeller=who, **fields | more)


def alphabet(text: str) -> float:
    """The later in the alphabet, the better."""
    return float(ord(text[0]))


# -- what people are asked ------------------------------------------------------------------------


def test_items_are_what_a_blind_person_may_see(ask: Any, tmp_path: Path) -> None:
    judge = ask(overlap=2)
    other = Prompt("q", (Message("user", "what?"),))
    groups = [group("x", "y", "x"), group("u", "v", prompt=other), group("z", "z")]
    with pytest.raises(Pending, match=r"2 prompts wait for people \(4 labels to give\)") as pause:
        judge.judge(groups)
    assert "gnomon label serve" in str(pause.value)
    assert pause.value.left is not None
    assert pause.value.left() == "4 labels to give on 2 prompts"
    with Store.open(tmp_path / "labels.db") as store:
        items = list(store.items())
        (campaign,) = store.campaigns()
    assert campaign.name == "run/01-s"
    assert campaign.overlap == 2
    assert campaign.settings["ask"] == "ranking"
    assert [{r.text for r in item.responses} for item in items] == [{"x", "y"}, {"u", "v"}]
    for item in items:
        assert item.prompt.meta == {}
        assert all(not r.meta and not r.ids and r.rank is None for r in item.responses)
    with pytest.raises(Pending):  # asking again asks nothing new
        judge.judge(groups)
    with Store.open(tmp_path / "labels.db") as store:
        assert len(list(store.items())) == 2


def test_labels_become_comparisons_with_who_when_and_cost(ask: Any) -> None:
    judge = ask(votes="majority", guideline=None)
    groups = [group("b", "c", "a", "c")]
    with pytest.raises(Pending):
        judge.judge(groups)
    said(judge, "ann", alphabet, comment="c is best", at="2026-11-26T10:00:00+00:00")
    (found,) = judged(judge, groups)
    pairs = {(c.better, c.worse) for c in found.comparisons or ()}
    assert pairs == {(1, 0), (1, 2), (0, 2)}
    assert [score.value for score in found.scores] == [0.5, 1.0, 0.0, 1.0]
    assert found.cost == Cost(12.0, 0, 0.4)
    assert found.reason == "ann at 2026-11-26T10:00:00+00:00"  # a comment stays where it can go
    assert found.version == "majority"
    assert found.judge == "people"


def test_a_round_is_open_until_enough_people_judged_it(ask: Any) -> None:
    judge = ask(overlap=2, votes="majority")
    groups = [group("a", "b"), group("c", "d")]
    with pytest.raises(Pending):
        judge.judge(groups)
    said(judge, "ann", alphabet)
    with pytest.raises(Pending, match=r"2 prompts wait for people \(2 labels"):
        judge.begin(1)
    said(judge, "bob", alphabet, kind="skip", ranks=())  # says nothing, so another must
    with pytest.raises(Pending, match="2 labels to give"):
        judge.begin(1)
    said(judge, "cid", lambda text: -alphabet(text))
    judge.begin(1)
    found = judged(judge, groups)
    assert all(c.tie for j in found for c in j.comparisons or ())  # one each: a tie
    assert judge.campaign == "run/01-s"


def test_what_everyone_skips_is_compared_by_nobody(ask: Any) -> None:
    judge = ask(overlap=2)
    groups = [group("a", "b")]
    with pytest.raises(Pending):
        judge.judge(groups)
    for who in ("ann", "bob"):
        said(judge, who, alphabet, kind="skip", ranks=())
    (found,) = judged(judge, groups)
    assert [score.value for score in found.scores] == [None, None]  # and no tie
    rated = ask(overlap=1, kind="rating", campaign="rated")
    rated.number = 2
    with pytest.raises(Pending):
        rated.judge(groups)
    said(rated, "ann", alphabet, kind="skip", ranks=())
    (nothing,) = judged(rated, groups)
    assert all(score.value is None for score in nothing.scores)
    assert is_skipped(nothing.scores[0].error)
    failed = replace(nothing, scores=(Score(None, error="down"), Score(1.0)))
    rollouts: Any = [SimpleNamespace(scores=j.scores) for j in (nothing, failed)]
    assert failures(rollouts) == (["down"], 2)  # what was skipped has not failed
    errors, total = failures(rollouts[:1])
    assert len(errors) == total == 2  # nothing else is left


def test_what_was_taken_back_was_paid_too(ask: Any) -> None:
    judge = ask()
    with pytest.raises(Pending):
        judge.judge([group("a", "b")])
    said(judge, "ann", alphabet, cost=Cost(seconds=30, money=0.5))
    with Store.open(judge.store) as store:
        (old,) = store.labels(judge.campaign)
        store.add_labels([replace(old, id="again", replaces=old.id)])
    (found,) = judged(judge, [group("a", "b")])
    assert (found.cost.seconds, found.cost.money) == (60, 1.0)


def test_an_adjudicator_decides_for_all(ask: Any) -> None:
    for votes in ("majority", "calibrated"):
        judge = ask(overlap=3, votes=votes, campaign=votes)
        judge.number = 1 + (votes == "calibrated")
        groups = [group("a", "b"), group("c", "d"), group("e", "f")]
        with pytest.raises(Pending):
            judge.judge(groups)
        said(judge, "ann", alphabet)
        said(judge, "bob", alphabet)
        with Store.open(judge.store) as store:
            first = next(iter(store.items(votes)))
            decision = ranked(first, "eve", lambda text: -alphabet(text), tags=(ADJUDICATION,))
            store.people.add("eve", role="adjudicator")
            store.add_labels([decision])
        with pytest.raises(Pending, match="2 of 3 prompts still wait"):
            judge.judge(groups)
        said(judge, "cid", alphabet)
        found = judged(judge, groups)
        texts = [r.text for r in first.responses]
        place = [i for i, g in enumerate(groups) if g.responses[0].text in texts]
        (decided,) = found[place[0]].comparisons or ()
        assert (decided.better, decided.worse, decided.probability) == (0, 1, 1.0)
        others = [c for i, j in enumerate(found) if i != place[0] for c in j.comparisons or ()]
        assert all((c.better, c.worse) == (1, 0) for c in others)


def test_the_careless_count_for_less_where_people_are_calibrated(ask: Any) -> None:
    """Two who are right beat two who answer anyhow, where the majority can only call it a tie."""
    texts = [f"{a}{i}" for i in range(40) for a in "ab"]
    groups = [group(texts[2 * i], texts[2 * i + 1]) for i in range(40)]
    found = {}
    for number, votes in enumerate(("majority", "calibrated"), start=1):
        judge = ask(overlap=5, votes=votes, campaign=votes)
        judge.number = number
        with pytest.raises(Pending):
            judge.judge(groups)
        for who in ("ann", "bob", "cid"):
            said(judge, who, alphabet)
        for k, who in enumerate(("dan", "eva")):
            said(judge, who, partial(anyhow, k))
        found[votes] = [j.comparisons or () for j in judged(judge, groups)]
    sure = [c.probability for pair in found["calibrated"] for c in pair if c.better == 1]
    assert len(sure) == 40
    assert min(sure) > 0.97
    assert all(c.probability == 1.0 for pair in found["majority"] for c in pair)


def anyhow(k: int, text: str) -> float:
    """A score that has nothing to do with the alphabet."""
    return float(int(hashlib.sha256(f"{text[1:]}{k}{text[0]}".encode()).hexdigest()[:6], 16))


def test_ratings_and_approvals_are_scores(ask: Any) -> None:
    for kind, field, given, expected in (
        ("rating", "ratings", [(1.0, 4.0), (2.0, None)], {1.5, 4.0}),
        ("approval", "approvals", [(True, False), (True, True)], {1.0, 0.5}),
    ):
        judge = ask(overlap=2, kind=kind, campaign=kind)
        judge.number = 1 + (kind == "approval")
        with pytest.raises(Pending):
            judge.judge([group("a", "b")])
        for who, values in zip(("ann", "bob"), given, strict=True):
            said(judge, who, alphabet, kind=kind, ranks=(), **{field: values})
        (found,) = judged(judge, [group("a", "b")])
        assert found.comparisons is None
        assert {score.value for score in found.scores} == expected


def test_a_judged_round_stays_as_it_is(ask: Any) -> None:
    judge = ask(votes="majority")
    with pytest.raises(Pending):
        judge.judge([group("a", "b")])
    said(judge, "ann", alphabet)
    before = judged(judge, [group("a", "b")])
    said(judge, "bob", lambda text: -alphabet(text))
    said(judge, "cid", lambda text: -alphabet(text))
    assert judged(ask(votes="majority"), [group("a", "b")])[0].comparisons == before[0].comparisons


def test_what_has_changed_is_said(ask: Any, tmp_path: Path) -> None:
    judge = ask()
    with pytest.raises(Pending):
        judge.judge([group("a", "b")])
    with pytest.raises(RunError, match="asks about other responses"):
        judge.judge([group("a", "other")])
    judge.file.write_text("{")
    with pytest.raises(RunError, match="no longer what the run wrote"):
        judge.begin(1)
    judge.file.unlink()
    with pytest.raises(Pending):
        judge.judge([group("a", "b")])
    (tmp_path / "labels.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(Exception, match="no such store"):
        judge.begin(1)
    Store.open(tmp_path / "labels.db").close()
    with pytest.raises(RunError, match="has not got 1 of the 1 items"):
        judge.begin(1)


def test_options_are_checked_before_anything_is_sampled(tmp_path: Path) -> None:
    def made(**options: Any) -> Any:
        spec = RewardSpec(builtin="people", options=options)
        return one_judge(spec, base=tmp_path, load=lambda name: pytest.fail(name))

    with pytest.raises(ConfigError, match="did you mean 'overlap'"):
        made(overlp=2)
    with pytest.raises(Exception, match=r"guideline .*none\.md cannot be read"):
        made(guideline="none.md")
    assert made().store == str(tmp_path / "labels.db")
    assert made(store="postgresql://me@host/x").store == "postgresql://me@host/x"
    assert list(tmp_path.iterdir()) == []  # nothing is made by looking


def test_killed_between_asking_and_remembering(ask: Any, monkeypatch: Any) -> None:
    """The items are in the store once, whenever the run dies."""
    judge, groups = ask(votes="majority"), [group("a", "b"), group("c", "d")]
    with monkeypatch.context() as patch:
        patch.setattr("gnomon.feedback.people_judge.Round.write", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            judge.judge(groups)
    said(judge, "ann", alphabet)
    with Store.open(judge.store) as store:
        assert len(list(store.items())) == 2
    found = judged(ask(votes="majority"), groups)
    assert [len(j.comparisons or ()) for j in found] == [1, 1]


# -- waiting --------------------------------------------------------------------------------------


def test_waiting_says_what_is_left_and_survives_what_can_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    states: Iterator[Any] = iter(["2 labels", "2 labels", RunError("the store is away"), "1", ""])

    def left() -> str:
        state = next(states)
        if isinstance(state, Exception):
            raise state
        return str(state)

    wait_for(Pending("asked"), left, every=0.0)
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["left: 2 labels", "left: not known: the store is away", "left: 1"]


def test_ctrl_c_while_waiting_is_a_pause() -> None:
    def left() -> str:
        raise KeyboardInterrupt

    pause = Pending("asked", left)
    with pytest.raises(Pending) as caught:
        wait_for(pause, left, every=0.0)
    assert caught.value is pause


# -- a run ----------------------------------------------------------------------------------------

STAGE = Path("runs/run/stages/01-s")


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs ``gnomon run recipe.yaml ARGS`` in ``tmp_path``: exit code, and what was said."""
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr("gnomon.report.html.write_report", lambda folder: folder / "report.html")
    return runs(tmp_path, monkeypatch, capsys, "run", "recipe.yaml")


def write_recipe(tmp_path: Path, model: Path, judge: Any, **more: Any) -> None:
    rows = [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage: dict[str, Any] = {
        "name": "s",
        "algorithm": "online_dpo",
        "data": "prompts.jsonl",
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-2, "checkpoint_every": 50},
        "rollout": {"samples": 3, "max_new_tokens": 6},
        "reward": judge,
    }
    recipe = {"name": "run", "model": str(model), "max_length": 100, "stages": [stage | more]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def label_all(where: Path, who: str = "ann") -> int:
    """The shorter text is better; how many labels were new."""
    with Store.open(where) as store:
        done = {label.item for label in store.labels(labeller=who)}
        fresh = [
            ranked(item, who, lambda text: -float(len(text)))
            for item in store.items()
            if item.id not in done
        ]
        store.add_labels(fresh, add_labellers="person")
    return len(fresh)


def weights(tmp_path: Path, run: str) -> bytes:
    return (tmp_path / f"runs/{run}/stages/01-s/model/model.safetensors").read_bytes()


PEOPLE = {"builtin": "people", "options": {"votes": "majority"}}
SHORTER = "def shorter(samples):\n    return [-float(len(s.text)) for s in samples]\n"


def killed_while_waiting(tmp_path: Path) -> None:
    """``gnomon run --wait`` in a process of its own, killed once people have been asked."""
    process = start_command(tmp_path, "run", "recipe.yaml", "--wait")
    file = tmp_path / STAGE / "queue" / "round-001.json"
    try:
        while not file.is_file():
            assert process.is_alive(), "it ended before it asked anybody"
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()


def test_a_run_killed_while_it_waits_ends_as_with_a_program(
    gnomon: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    write_recipe(tmp_path, tiny_folder, PEOPLE)
    killed_while_waiting(tmp_path)
    assert label_all(tmp_path / "labels.db") == 2
    code, text = gnomon("--resume")
    assert code == 3, text
    assert "round 2: 2 prompts wait for people (2 labels to give)" in text
    assert "--resume" in text
    info = json.loads((tmp_path / STAGE / "stage.json").read_text())
    assert info["status"] == "paused"
    assert label_all(tmp_path / "labels.db") == 2
    code, text = gnomon("--resume")
    assert code == 0, text
    info = json.loads((tmp_path / STAGE / "stage.json").read_text())
    assert info["judges"]["people"]["seconds"] == pytest.approx(4 * 12.0)
    assert info["judges"]["people"]["money"] == pytest.approx(4 * 0.4)

    (tmp_path / "judge.py").write_text(SHORTER)
    write_recipe(tmp_path, tiny_folder, {"function": "judge.py:shorter"})
    code, text = gnomon("name=program")
    assert code == 0, text
    assert weights(tmp_path, "program") == weights(tmp_path, "run")


def test_a_run_that_waits_goes_on_by_itself(
    gnomon: Run, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, tiny_folder, PEOPLE)
    labelled: list[int] = []

    def work(seconds: float) -> None:
        """A person answers whatever is there between two looks at it."""
        assert '"paused"' in (tmp_path / STAGE / "stage.json").read_text()
        labelled.append(label_all(tmp_path / "labels.db"))

    monkeypatch.setattr("gnomon.cli.run.time", SimpleNamespace(sleep=work))
    code, text = gnomon("--wait")
    assert code == 0, text
    assert labelled == [2, 2]
    assert "round 2" in text
    assert "waiting:" in text


def test_collecting_gives_the_next_stage_what_people_preferred(
    gnomon: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    collects = {"algorithm": "collect", "settings": {"keep": "all"}, "train": {}}
    write_recipe(tmp_path, tiny_folder, PEOPLE, **collects)
    assert gnomon()[0] == 3
    assert label_all(tmp_path / "labels.db") == 4
    code, text = gnomon("--resume")
    assert code == 0, text
    rows = [json.loads(x) for x in (tmp_path / STAGE / "groups.jsonl").read_text().splitlines()]
    for row in rows:
        by_rank = sorted(row["responses"], key=lambda r: r["rank"])
        lengths = [len(r["text"]) for r in by_rank]
        assert lengths == sorted(lengths)
        assert row["reason"].startswith("ann at ")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"reward": ["people", "correct"]}, "people judges alone"),
        ({"reward": "correct", "observe": "people"}, "people cannot be observed"),
        ({"holdout": 0.25}, "not held-out prompts"),
    ],
)
def test_the_dry_run_refuses_what_people_cannot_do(
    gnomon: Run, tmp_path: Path, tiny_folder: Path, more: dict[str, Any], text: str
) -> None:
    write_recipe(tmp_path, tiny_folder, "people", **more)
    code, heard = gnomon("--dry-run")
    assert code == 1
    assert text in heard


def test_nothing_is_asked_of_a_group_sequence_that_is_empty(ask: Any) -> None:
    none: Sequence[Group] = []
    assert ask().judge(none) == []
