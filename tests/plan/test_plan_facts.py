"""What is read from data files: counts, lengths, agreement, leaks; mixed files are refused."""

from __future__ import annotations

from pathlib import Path

import plan_world as pw
import pytest

from gnomon.errors import ConfigError, DataError
from gnomon.models.load import load_tokenizer
from gnomon.plan.facts import read_facts


def test_files_of_every_kind_are_counted_together(tmp_path: Path) -> None:
    paths = [
        pw.write(tmp_path / "demos.jsonl", pw.demonstrations(10)),
        pw.write(tmp_path / "pairs.jsonl", pw.pairs(20)),
        pw.write(tmp_path / "rankings.jsonl", pw.rankings(30)),
        pw.write(tmp_path / "thumbs.jsonl", pw.thumbs(40, 25)),
        pw.write(tmp_path / "problems.jsonl", pw.checkable(50)),
        pw.write(tmp_path / "prompts.jsonl", pw.prompts(60)),
    ]
    facts, files = read_facts(paths, judge=True)
    assert (facts.demonstrations, facts.pairs, facts.rankings) == (10 + 20 + 30, 20, 30)
    assert (facts.good, facts.bad, facts.checkable) == (25, 15, 50)
    assert facts.prompts == 10 + 20 + 30 + 40 + 50 + 60
    assert facts.judge
    assert [file.kind for file in files] == [
        *("demonstrations", "preferences", "rankings", "unpaired", "prompts", "prompts")
    ]
    assert files[4].check == ("maths", "answer")


@pytest.mark.parametrize(
    ("row", "check"),
    [
        ({"answer": "72"}, ("maths", "answer")),
        ({"answer": "It is 3 + 4 = 7.\n#### 7"}, ("maths", "answer")),
        ({"solution": r"so \boxed{x+1}"}, ("maths", "solution")),
        ({"ground_truth": "Paris"}, ("exact", "ground_truth")),
        ({"tests": [{"input": "1", "output": "2"}]}, ("code", "tests")),
        ({"test": "def check(f): ...", "entry_point": "f"}, ("code", "test")),
        ({"test": "unit"}, None),
        ({"answer": "A long answer that nobody can compare with another word for word."}, None),
        ({"target": True}, None),
    ],
)
def test_what_a_program_can_check(
    tmp_path: Path, row: dict[str, object], check: tuple[str, str] | None
) -> None:
    rows = [{"prompt": f"question {i}", **row} for i in range(5)]
    facts, (file,) = read_facts([pw.write(tmp_path / "rows.jsonl", rows)])
    assert file.check == check
    assert facts.checkable == (5 if check else 0)


def test_worked_solutions_are_demonstrations_and_bare_answers_are_not(tmp_path: Path) -> None:
    solved = [
        {"question": f"{i} + 1 = ?", "answer": f"We add 1 to {i} and get {i + 1}.\n#### {i + 1}"}
        for i in range(5)
    ]
    facts, _ = read_facts([pw.write(tmp_path / "solved.jsonl", solved)])
    assert (facts.demonstrations, facts.checkable) == (5, 5)
    facts, _ = read_facts([pw.write(tmp_path / "bare.jsonl", pw.checkable(5))])
    assert (facts.demonstrations, facts.checkable) == (0, 5)


def test_agreement_of_several_people_by_hand(tmp_path: Path) -> None:
    """Three votes on each pair, two of them alike: one of three pairs of votes agrees."""
    votes = {"annotator_1": "a", "annotator_2": "a", "annotator_3": "b"}
    rows = [{"prompt": f"q {i}", "response_a": "one", "response_b": "two", **votes} for i in "abcd"]
    facts, _ = read_facts([pw.write(tmp_path / "votes.jsonl", rows)])
    assert facts.agreement is not None
    assert facts.agreement.value == pytest.approx(1 / 3)
    assert facts.agreement.n == 4 * 3


def test_people_who_judge_in_rows_of_their_own(tmp_path: Path) -> None:
    sides = {"response_a": "one", "response_b": "two"}
    rows = [
        {"prompt": "q", **sides, "preference": verdict, "labeller": name}
        for name, verdict in (("x", "a"), ("y", "a"), ("z", "b"))
    ]
    facts, _ = read_facts([pw.write(tmp_path / "votes.jsonl", rows)])
    assert facts.agreement is not None
    assert facts.agreement.value == pytest.approx(1 / 3)
    nameless = [{k: v for k, v in row.items() if k != "labeller"} for row in rows]
    assert read_facts([pw.write(tmp_path / "again.jsonl", nameless)])[0].agreement is None


def test_the_length_gap_and_leaks(tmp_path: Path) -> None:
    long = pw.pairs(30, " , as far as I know")
    data = pw.write(tmp_path / "pairs.jsonl", long + pw.pairs(40)[30:])
    held = pw.write(tmp_path / "held.jsonl", pw.prompts(7))
    facts, _ = read_facts([data], held)
    assert facts.longer == 1.0  # of those whose lengths differ
    assert facts.leaked == 7
    assert read_facts([data])[0].leaked is None


def test_lengths_are_the_models_own_tokens_where_its_tokenizer_is_here(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "pairs.jsonl", pw.pairs(40))
    tokenizer = load_tokenizer("tunnel")
    facts, _ = read_facts([data], tokenizer=tokenizer)
    own = [len(tokenizer(pw.question(i), add_special_tokens=False).input_ids) for i in range(40)]
    assert facts.counted
    assert facts.mean_prompt == pytest.approx(sum(own) / 40)
    words, _ = read_facts([data])
    assert not words.counted
    assert words.mean_prompt != facts.mean_prompt


def test_a_mixed_file_names_the_rows_of_each_kind(tmp_path: Path) -> None:
    rows = [*pw.pairs(5), *pw.demonstrations(4), pw.pairs(1)[0], *pw.prompts(2)]
    mixed = pw.write(tmp_path / "mixed.jsonl", rows)
    with pytest.raises(DataError) as refused:
        read_facts([mixed])
    says = str(refused.value)
    assert "preferences in rows 1-5, 10" in says
    assert "demonstrations in rows 6-9" in says
    assert "prompts in rows 11-12" in says
    assert "file of its own" in says


def test_a_stray_row_is_no_mixed_file(tmp_path: Path) -> None:
    rows = [*pw.pairs(200), *pw.prompts(1)]
    facts, (file,) = read_facts([pw.write(tmp_path / "pairs.jsonl", rows)])
    assert facts.pairs == 200
    assert len(file.seen.skipped) == 1


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "pairs.jsonl", pw.pairs(3))
    with pytest.raises(ConfigError, match="needs data"):
        read_facts([])
    with pytest.raises(ConfigError, match="named twice"):
        read_facts([data, data])
    with pytest.raises(ConfigError, match="both data and --held-out"):
        read_facts([data], data)


def test_rows_that_two_files_share_count_twice_and_are_told(tmp_path: Path) -> None:
    first = pw.write(tmp_path / "a.jsonl", pw.pairs(30))
    same = pw.write(tmp_path / "b.jsonl", pw.pairs(20))
    with pytest.raises(ConfigError, match=r"b\.jsonl: all 20 rows of it are in .*a\.jsonl, too"):
        read_facts([same, first])
    some = pw.write(tmp_path / "c.jsonl", [*pw.pairs(10), *pw.pairs(20, " indeed")])
    _, (one, other) = read_facts([first, some])
    assert (one.repeats, "10 of 30 rows are in" in other.repeats) == ("", True)
    # prompts of their own and pairs of the same prompts are no repetition
    _, found = read_facts([first, pw.write(tmp_path / "p.jsonl", pw.prompts(30))])
    assert not any(file.repeats for file in found)
