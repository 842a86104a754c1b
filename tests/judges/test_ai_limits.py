"""What an AI judge may cost and how fast it may ask; endpoints that are slow, full, or gone."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import BudgetSpent, ConfigError
from gnomon.judges import answers
from gnomon.judges.ai import AIJudge
from gnomon.judges.answers import ANSWERS
from gnomon.judges.budget import Budget, Pace
from gnomon.judges.endpoint import Endpoint
from gnomon.judges.lines import Lines
from gnomon.judges.panel import ai_judge
from gnomon.judges.prompting import Question
from gnomon.judges.protocol import judged
from gnomon.records import Cost, Group, Message, Prompt, Response
from judge_server import JudgeServer, Said, letter, prefers, says
from ports import free_port


def group(*texts: str) -> Group:
    prompt = Prompt("p", (Message("user", "Name a fruit."),))
    return Group(prompt, tuple(Response((Message("assistant", t),)) for t in texts))


def judge(server: JudgeServer, **options: Any) -> AIJudge:
    return AIJudge(**{"model": "m", "url": server.url, "retries": 0} | options)


GROUPS = [group("x" * i, "yy" * i) for i in range(1, 9)]


# -- budgets ---------------------------------------------------------------------------------------


def test_a_budget_stops_before_it_is_passed_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    price = 2e4  # 2 euros for the 100 tokens that each answer reads, 1 for the one it writes
    with JudgeServer(prefers(len)) as server:
        options: dict[str, Any] = {"price_input": price, "price_output": 1e6, "answers": tmp_path}
        first = judge(server, budget=40.0, **options)
        found = first.opinions(GROUPS)
        asked = len(server.asked)
        assert 0 < asked < 16
        assert first.book.spent.money == pytest.approx(3.0 * asked)
        assert first.book.spent.money <= 40.0
        done = [o for o in found if not o.over]
        assert all(o.judgement.error is None for o in done)
        assert all("budget is spent" in str(o.judgement.error) for o in found if o.over)
        with pytest.raises(BudgetSpent, match=r"raise budget"):
            judged(judge(server, budget=40.0, **options), GROUPS)
        assert len(server.asked) == asked  # what was spent before counts
        rest = judged(judge(server, budget=500.0, **options), GROUPS)
        assert len(server.asked) == 16
    assert all(j.error is None for j in rest)


def test_a_budget_in_tokens_holds_for_a_whole_panel() -> None:
    members = [{"model": "m"}, {"model": "m", "seed": 1}, {"model": "m", "seed": 2}]
    with JudgeServer(prefers(len)) as server:
        panel = ai_judge(url=server.url, retries=0, panel=members, budget_tokens=3000)
        with pytest.raises(BudgetSpent):
            panel.judge(GROUPS)
        assert 0 < len(server.asked) * 101 <= 3000
        assert panel.budget is not None
        assert panel.budget.spent.tokens == len(server.asked) * 101


def test_a_budget_waits_for_change_before_it_says_no() -> None:
    budget = Budget(tokens=100)
    assert budget.reserve(Cost(tokens=80))
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(budget.reserve(Cost(tokens=50))))
    thread.start()
    budget.settle(Cost(tokens=80), Cost(tokens=10))
    thread.join(60)
    assert got == [True]
    budget.settle(Cost(tokens=50), Cost(tokens=50))
    assert not budget.reserve(Cost(tokens=50))
    assert budget.reserve(Cost(tokens=40))


# -- pace ------------------------------------------------------------------------------------------


class Clock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def test_requests_and_tokens_are_spread_over_the_minute() -> None:
    clock = Clock()
    pace = Pace(requests=30, clock=clock, sleep=clock.sleep)
    at = []
    for _ in range(5):
        pace.request()
        at.append(clock.now)
    assert at == pytest.approx([100, 102, 104, 106, 108])
    clock.now += 600  # what was not used is not saved up
    pace.request()
    pace.request()
    assert clock.now == pytest.approx(708 + 2)
    tokens = Clock()
    pace = Pace(tokens=600, clock=tokens, sleep=tokens.sleep)
    pace.read(100)  # ten seconds' worth, on credit
    pace.settle(100, 150)
    pace.read(10)
    assert tokens.now == pytest.approx(115)


def test_an_endpoint_is_asked_at_its_pace_retries_too() -> None:
    slept: list[float] = []
    tries: list[int] = []

    def rule(text: str, body: dict[str, Any]) -> Said:
        tries.append(1)
        if len(tries) == 1:  # the client waits as long as it is told: not at all
            return Said(
                status=429,
                body={"error": {"message": "slow down"}},
                headers={"retry-after-ms": "1"},
            )
        return letter({"A": 1.0})

    with JudgeServer(rule) as server:
        own = Endpoint("m", server.url, retries=1, requests_per_minute=1.0, sleep=slept.append)
        own._pace._clock = lambda: 100.0  # no time passes between the two tries
        replies: list[Any] = []
        own.answer([Question("", "q", ("A", "B"))], lambda i, reply: replies.append(reply))
    assert replies[0].choice == "A"
    assert len(tries) == 2
    assert slept == [60]  # before the second try


def test_retry_after_is_heeded() -> None:
    at: list[float] = []

    def rule(text: str, body: dict[str, Any]) -> Said:
        at.append(time.monotonic())
        if len(at) == 1:
            body_ = {"error": {"message": "slow down"}}
            return Said(status=429, body=body_, headers={"retry-after-ms": "300"})
        return letter({"A": 1.0})

    with JudgeServer(rule) as server:
        found = judged(judge(server, mode="approval", retries=1), [group("x")])[0]
    assert len(at) == 2
    assert at[1] - at[0] >= 0.3
    assert "not an answer in the form" in str(found.scores[0].error)


# -- endpoints that are gone -----------------------------------------------------------------------


def test_an_endpoint_that_comes_back_is_asked_again() -> None:
    port = free_port()
    servers: list[JudgeServer] = []
    told: list[str] = []

    def sleep(seconds: float) -> None:
        told.append(f"slept {seconds:g}")
        if len(told) == 4:  # after the second pause
            servers.append(JudgeServer(prefers(len), port=port).__enter__())

    own = AIJudge(model="m", url=f"http://127.0.0.1:{port}/v1", retries=0, patience_s=100)
    assert isinstance(own.answerer, Endpoint)
    own.answerer.sleep, own.answerer.tell = sleep, told.append
    try:
        found = judged(own, GROUPS)
        assert all(j.error is None for j in found)
        assert len(servers[0].asked) == 16
    finally:
        for server in servers:
            server.__exit__()
    assert [t for t in told if t.startswith("slept")] == ["slept 2", "slept 4"]
    assert "did not answer" in told[0]
    assert "16 questions are asked again in 2 s" in told[0]


def test_patience_ends() -> None:
    slept: list[float] = []
    url = f"http://127.0.0.1:{free_port()}/v1"
    own = AIJudge(model="m", url=url, retries=0, patience_s=10)
    assert isinstance(own.answerer, Endpoint)
    own.answerer.sleep = slept.append
    found = judged(own, GROUPS[:1])[0]
    assert slept == [2, 4, 4]
    assert "did not answer" in str(found.scores[0].error)


def test_several_endpoints_share_the_work_and_one_that_dies_is_left_out() -> None:
    """The second one breaks off for good at its third question; the first one waits for that."""
    broken, lock = threading.Event(), threading.Lock()
    seen: list[str] = []

    def first(text: str, body: dict[str, Any]) -> Said:
        assert broken.wait(60)
        return prefers(len)(text, body)

    def second(text: str, body: dict[str, Any]) -> Said:
        with lock:
            seen.append(text)
            if len(seen) >= 3:
                broken.set()
                return Said(drop=True)
        return prefers(len)(text, body)

    with JudgeServer(prefers(len)) as alone, JudgeServer(first) as a, JudgeServer(second) as b:
        wanted = judged(judge(alone), GROUPS)
        own = judge(a, url=[a.url, b.url], concurrency=2)
        assert isinstance(own.answerer, Endpoint)
        own.answerer._lines._clock = lambda: 100.0  # it is not tried again after a while
        with pytest.warns(UserWarning, match=f"{b.url}, model m did not answer.*the other"):
            found = judged(own, GROUPS)
        assert [j.scores for j in found] == [j.scores for j in wanted]
        assert (len(a.asked), len(b.asked)) == (14, 3)  # and 16 answers: nothing is paid for twice
        assert own.book.spent.tokens == sum(j.cost.tokens for j in wanted)
        other = judge(a, url=[b.url, a.url])
        assert other.version == judge(alone).version == own.version


def test_answers_are_kept_wherever_their_model_is_served(tmp_path: Path) -> None:
    with JudgeServer(prefers(len)) as a, JudgeServer(prefers(len)) as b:
        wanted = judged(judge(a, answers=tmp_path), GROUPS)
        for url in (b.url, [a.url, b.url]):
            found = judged(judge(b, url=url, answers=tmp_path), GROUPS)
            assert [j.scores for j in found] == [j.scores for j in wanted]
        assert (len(a.asked), len(b.asked)) == (16, 0)


def test_answers_that_an_earlier_version_kept_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their keys have the url in them."""
    settings = answers._settings
    with JudgeServer(prefers(len)) as server:
        with monkeypatch.context() as earlier:
            earlier.setattr(
                answers, "_settings", lambda answerer, url=True: settings(answerer, True)
            )
            wanted = judged(judge(server, answers=tmp_path), GROUPS)
        found = judged(judge(server, answers=tmp_path), GROUPS)
        assert len(server.asked) == 16
    assert [j.scores for j in found] == [j.scores for j in wanted]


def test_an_endpoint_that_is_gone_is_tried_again_after_a_pause() -> None:
    now = 0.0
    lines = Lines(["a", "b"], clock=lambda: now)

    def ask(gone: str = "") -> str:
        line = lines.take([])
        assert line is not None
        lines.back(line, line.url == gone)
        return line.url

    assert [ask("a"), ask(), ask()] == ["a", "b", "b"]
    now = 2.0
    assert [ask("a"), ask()] == ["a", "b"]
    now = 5.0  # twice as long
    assert ask() == "b"
    now = 6.0
    assert [ask(), ask()] == ["a", "a"]
    busy = lines.take([])
    assert busy is not None
    assert ask() != busy.url  # who has the fewest under way
    assert lines.take(lines.every) is None


def test_where_every_endpoint_is_gone_or_refuses_that_is_said() -> None:
    urls = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)]
    own = AIJudge(model="m", url=urls, retries=0)
    with pytest.warns(UserWarning, match="the other endpoints are asked"):
        assert "did not answer" in str(judged(own, GROUPS[:1])[0].scores[0].error)
    with JudgeServer(says("A"), models=("n",)) as a, JudgeServer(says("A"), models=()) as b:
        own = judge(a, url=[a.url, b.url], concurrency=1, patience_s=100)  # which does not help
        with pytest.warns(UserWarning, match="it serves n; the other"):
            assert "no model m" in str(judged(own, GROUPS)[0].error)
    for wrong in ([], [urls[0], urls[0]]):
        with pytest.raises(ConfigError, match="give each endpoint's address once"):
            AIJudge(model="m", url=wrong)


def test_connections_that_break_off_are_tried_again() -> None:
    broken: list[int] = []

    def rule(text: str, body: dict[str, Any]) -> Said:
        if len(broken) < 2:
            broken.append(1)
            return Said(drop=True)
        return prefers(len)(text, body)

    with JudgeServer(rule) as server:
        own = judge(server, patience_s=5, concurrency=1)
        assert isinstance(own.answerer, Endpoint)
        own.answerer.sleep = lambda seconds: None
        found = judged(own, GROUPS[:2])
    assert len(broken) == 2
    assert all(j.error is None for j in found)


def test_a_model_that_is_not_there_is_not_waited_for() -> None:
    slept: list[float] = []
    with JudgeServer(says("A"), models=("llama", "qwen")) as server:
        own = judge(server, model="lama", patience_s=100)
        assert isinstance(own.answerer, Endpoint)
        own.answerer.sleep = slept.append
        found = judged(own, GROUPS[:1])[0]
    assert "no model lama" in str(found.scores[0].error)
    assert "it serves llama, qwen" in str(found.scores[0].error)
    assert not slept


def test_a_slow_endpoint_is_an_error_after_its_time(tmp_path: Path) -> None:
    go = threading.Event()

    def rule(text: str, body: dict[str, Any]) -> Said:
        go.wait(60)
        return letter({"A": 1.0})

    with JudgeServer(rule) as server:
        own = judge(server, timeout_s=0.1, answers=tmp_path)
        found = judged(own, GROUPS[:1])[0]
        go.set()
    assert "timed out" in str(found.scores[0].error)
    assert "timeout_s is 0.1: raise it, or lower concurrency" in str(found.scores[0].error)
    assert not (tmp_path / ANSWERS).exists()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said(["A"], [{"A": 1.0}], finish="content_filter"), "content filter"),
        (Said(["I will not judge that."], [{"x": 1.0}]), "not an answer in the form"),
        (Said(status=400, body={"error": {"message": "content management policy"}}), "refused"),
    ],
)
def test_a_refusal_is_an_error_and_no_tie(said: Said, words: str) -> None:
    with JudgeServer(lambda text, body: said) as server:
        found = judged(judge(server), GROUPS[:1])[0]
    assert words in str(found.scores[0].error)
    assert found.comparisons is None
