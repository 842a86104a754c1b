"""People as a judge: what they are asked, what their labels mean, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import Pending, RunError
from gnomon.judges.human import HumanQueue
from gnomon.judges.protocol import judged
from gnomon.records import Comparison, Group, Message, Prompt, Response

ASK = Prompt("p", (Message("user", "which?"),))
OTHER = Prompt("p", (Message("user", "another with the same id"),))


def group(*texts: str, prompt: Prompt = ASK) -> Group:
    return Group(prompt, tuple(Response((Message("assistant", text),)) for text in texts))


def labelled(folder: Path, asked: Group, *labels: dict[str, Any]) -> HumanQueue:
    """A queue that has asked about the group and has these labels."""
    queue = HumanQueue(folder)
    with pytest.raises(Pending):
        queue.judge([asked])
    queue.labels.write_text("".join(json.dumps(row) + "\n" for row in labels))
    return queue


def values(queue: HumanQueue, asked: Group) -> list[float | None]:
    (judgement,) = judged(queue, [asked])
    return [score.value for score in judgement.scores]


def compared(queue: HumanQueue, asked: Group) -> Sequence[Comparison]:
    (judgement,) = judged(queue, [asked])
    assert judgement.comparisons is not None
    return judgement.comparisons


def test_each_prompt_is_asked_about_once_with_its_different_responses(tmp_path: Path) -> None:
    queue = HumanQueue(tmp_path / "queue")
    asked = [group("x", "y", "x"), group("u", "v", prompt=OTHER), group("z")]
    with pytest.raises(Pending, match="2 prompts wait"):
        queue.judge(asked)
    rows = [json.loads(line) for line in queue.file.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["001-0001", "001-0002"]
    assert rows[0]["messages"] == [{"role": "user", "content": "which?"}]
    assert [r["text"] for r in rows[0]["responses"]] == ["x", "y", "z"]
    assert [r["text"] for r in rows[1]["responses"]] == ["u", "v"]


def test_a_ranking_is_the_share_of_comparisons_won(tmp_path: Path) -> None:
    asked = group("x", "y", "z", "y")
    queue = labelled(tmp_path, asked, {"id": "001-0001", "ranks": {"r1": 2, "r2": 1, "r3": 2}})
    assert values(queue, asked) == [0.25, 1.0, 0.25, 1.0]
    said = set(compared(queue, asked))
    assert {(c.better, c.worse) for c in said if not c.tie} == {(1, 0), (1, 2)}
    assert [frozenset((c.better, c.worse)) for c in said if c.tie] == [frozenset((0, 2))]


def test_a_judgement_counts_its_weight_and_none_at_zero(tmp_path: Path) -> None:
    asked = group("x", "y")

    def said(better: str, worse: str, **more: Any) -> dict[str, Any]:
        return {"id": "001-0001", "better": better, "worse": worse, **more}

    for i, (labels, expected) in enumerate(
        [
            ([said("r1", "r2", weight=2), said("r2", "r1")], [1.0, 0.0]),
            ([said("r1", "r2", weight=0), said("r2", "r1")], [0.0, 1.0]),
            ([said("r1", "r2", weight=0)], [0.5, 0.5]),
            ([said("r1", "r2", confidence=0.5), said("r2", "r1")], [0.0, 1.0]),
        ]
    ):
        queue = labelled(tmp_path / str(i), asked, *labels)
        assert values(queue, asked) == expected
        assert (compared(queue, asked) == (Comparison(1, 0),)) == (expected == [0.0, 1.0])


def test_one_judgement_says_nothing_of_the_others(tmp_path: Path) -> None:
    asked = group("x", "y", "z")
    queue = labelled(tmp_path, asked, {"id": "001-0001", "better": "r3", "worse": "r1"})
    assert values(queue, asked) == [0.0, 0.5, 1.0]
    assert compared(queue, asked) == (Comparison(2, 0),)


def test_several_judgements_are_a_vote(tmp_path: Path) -> None:
    asked = group("x", "y")
    one = {"id": "001-0001", "better": "r1", "worse": "r2"}
    other = {"id": "001-0001", "better": "r2", "worse": "r1"}
    tie = {"id": "001-0001", "better": "r1", "worse": "r2", "tie": True}
    for labels, expected in (
        ((one, other, other), [0.0, 1.0]),
        ((one, other), [0.5, 0.5]),
        ((one, tie, tie), [1.0, 0.0]),
        ((tie,), [0.5, 0.5]),
        (({"id": "001-0001", "skip": True},), [0.5, 0.5]),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        queue = labelled(folder, asked, *labels)
        assert values(queue, asked) == expected


def test_an_opened_round_waits_before_anything_is_sampled(tmp_path: Path) -> None:
    queue = HumanQueue(tmp_path)
    queue.begin(4)
    with pytest.raises(Pending, match="round 4"):
        queue.judge([group("x", "y")])
    again = HumanQueue(tmp_path)
    with pytest.raises(Pending, match=r"round-004\.labels\.jsonl"):
        again.begin(4)
    again.labels.write_text('{"id": "004-0001", "ranking": ["r2", "r1"]}\n')
    again.begin(4)
    assert compared(again, group("x", "y")) == (Comparison(1, 0),)
    again.begin(5)
    with pytest.raises(Pending, match="round 5"):
        again.judge([group("x", "y")])


def test_nothing_to_compare_is_not_asked(tmp_path: Path) -> None:
    queue = HumanQueue(tmp_path)
    assert values(queue, group("x", "x")) == [0.5, 0.5]
    assert not queue.file.exists()


def test_what_is_pending_is_no_failed_judgement(tmp_path: Path) -> None:
    with pytest.raises(Pending):
        judged(HumanQueue(tmp_path), [group("x", "y")])


def test_other_responses_than_were_asked_about_are_refused(tmp_path: Path) -> None:
    asked = group("x", "y")
    queue = labelled(tmp_path, asked, {"id": "001-0001", "ranking": ["r2", "r1"]})
    with pytest.raises(RunError, match="other responses"):
        queue.judge([group("x", "y changed")])
    assert values(queue, asked) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"id": "001-0009", "skip": True}, "no prompt '001-0009'"),
        ({"id": "001-0001"}, "has one of ranks"),
        ({"id": "001-0001", "rank": {"r1": 1, "r2": 2}}, "did you mean 'ranks'"),
        ({"id": "001-0001", "ranks": {"r1": 1, "r2": 2}, "skip": True}, "ranks and skip"),
        ({"id": "001-0001", "ranks": {"r1": 1}}, "leaves out 'r2'"),
        ({"id": "001-0001", "ranks": {"r1": 1, "r2": 2, "r7": 3}}, "unknown response 'r7'"),
        ({"id": "001-0001", "ranks": {"r1": 1, "r2": "good"}}, "not a number"),
        ({"id": "001-0001", "ranks": [1, 2]}, "not an object"),
        ({"id": "001-0001", "ranking": ["r1"]}, "leaves out 'r2'"),
        ({"id": "001-0001", "better": "r1"}, "no 'better' or no 'worse'"),
        ({"id": "001-0001", "better": "r1", "worse": "r1"}, "with itself"),
        ({"id": "001-0001", "skip": False}, "nothing is judged"),
    ],
)
def test_a_label_that_cannot_be_used_names_its_file_and_row(
    tmp_path: Path, label: dict[str, Any], said: str
) -> None:
    asked = group("x", "y")
    good = {"id": "001-0001", "better": "r1", "worse": "r2"}
    queue = labelled(tmp_path, asked, good, label)
    with pytest.raises(RunError, match=r"round-001\.labels\.jsonl, row 2: ") as caught:
        queue.judge([asked])
    assert said in str(caught.value)


def test_a_line_that_is_no_json_names_its_row(tmp_path: Path) -> None:
    queue = labelled(tmp_path, group("x", "y"))
    queue.labels.write_text('{"id": "001-0001", "skip": true}\n{"id": \n')
    with pytest.raises(RunError, match="row 2"):
        queue.judge([group("x", "y")])
