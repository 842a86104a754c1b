"""How often answers that were joined to the wrong prompts are told, on real data.

    python benchmarks/joins.py --data ../shared/data --out joins.jsonl

Each set is drawn ``--draws`` times, and in a share of its rows the answers change places among each
other. Figures are kept in ``--out``, and what is there is not measured again. The limits
(``gnomon.stats.joins``) were set on the tuning sets; the testing sets were looked at afterwards,
once. ``shift`` moves all answers down by a line; ``foreign`` puts, in 60% of the rows, answers
whose own prompts are not in the data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gnomon.stats.joins import joined

SIZES = (64, 200, 1000)
WRONG: tuple[float | str, ...] = (0.0, 0.2, 0.6, 1.0, "shift", "foreign")
Pairs = list[tuple[str, str]]
"""(prompt, answer) of each row."""


def rows(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _plain(data: Path, pattern: str, prompt: str, *answers: str) -> Iterator[Pairs]:
    """The files of one form; ``prompt`` names one column, or several joined by +."""
    for file in sorted(data.glob(f"{pattern}.jsonl.gz")):
        read = rows(file)
        for answer in answers:
            yield [
                ("\n".join(str(r.get(k) or "") for k in prompt.split("+")), _text(r[answer]))
                for r in read
                if r.get(answer)
            ]


def _text(answer: Any) -> str:
    """An answer as text: the first of several, or what a turn or a solution says."""
    if isinstance(answer, list):
        return _text(answer[0])
    if isinstance(answer, dict):
        return str(answer.get("value") or answer.get("solution") or answer.get("sampled_string"))
    return str(answer)


def _dialogues(data: Path, first: int, last: int | None) -> Iterator[Pairs]:
    read = rows(data / "hh-rlhf" / "harmless-test.jsonl.gz")[first:last]
    for side in ("chosen", "rejected"):
        talks = [r[side].rpartition("\n\nAssistant:") for r in read]
        yield [(prompt, answer) for prompt, _, answer in talks]


def _turns(data: Path, name: str, answer: str = "") -> Iterator[Pairs]:
    """Conversations with an answer in a column of its own, or as the last turn; and the first."""
    read = rows(data / "llamafactory_demos" / f"{name}.jsonl.gz")
    talks = [
        [str(t.get("value") or t.get("content")) for t in r.get("conversations") or r["messages"]]
        for r in read
    ]
    if answer:
        yield [("\n".join(t), _text(r[answer])) for t, r in zip(talks, read, strict=True)]
        return
    yield [("\n".join(t[:-1]), t[-1]) for t in talks]
    if any(len(t) > 2 for t in talks):
        yield [(t[0], t[1]) for t in talks]


def tuning(data: Path) -> Iterator[tuple[str, Pairs]]:
    demos = "llamafactory_demos/alpaca_"
    groups = {
        "hh-rlhf, first 350": _dialogues(data, 0, 350),
        "AlpacaFarm": _plain(data, "alpaca_farm/[eo]*", "instruction+input", "output"),
        "PandaLM": _plain(
            data, "pandalm/testset-v1", "instruction+input", "response1", "response2"
        ),
        "BiGGen": _plain(data, "biggen_bench/prompts*", "system_prompt+input", "reference_answer"),
        "TruthfulQA": _plain(data, "truthfulqa/TruthfulQA", "Question", "Best Answer"),
        "Alpaca": _plain(data, f"{demos}en*", "instruction+input", "output"),
        "Alpaca, Chinese": _plain(data, f"{demos}zh*", "instruction+input", "output"),
        "GSM8K, train": _plain(data, "gsm8k/train", "question", "answer"),
        "HumanEval": _plain(data, "humaneval/*", "prompt", "canonical_solution"),
        "LLMBar": _plain(data, "llmbar/*", "input", "output_1", "output_2"),
        "XSTest: Llama 2, new": _plain(data, "xstest/*llama2new", "prompt", "completion"),
        "MMLU, letters": _plain(data, "mmlu_stem/*", "question+options", "answer"),
    }
    yield from ((name, pairs) for name, group in groups.items() for pairs in group)


def testing(data: Path) -> Iterator[tuple[str, Pairs]]:
    chosen = ("text_correct", "text_incorrect", "corrects", "incorrects")
    labels = "constitutional/[4H]*"
    groups = {
        "hh-rlhf, the rest": _dialogues(data, 350, None),
        "AlpacaEval": _plain(data, "alpaca_eval/[cgv]*", "instruction", "output_1", "output_2"),
        "AlpacaEval, one answer to all": _plain(
            data, "alpaca_eval/NullModel", "instruction", "output_2"
        ),
        "Auto-J": _plain(data, "autoj_pairwise/*", "prompt", "response 1", "response 2"),
        "DPO demo": (p for s in ("chosen", "rejected") for p in _turns(data, "dpo_en_demo", s)),
        "DPO demo, Chinese": (
            p for s in ("chosen", "rejected") for p in _turns(data, "dpo_zh_demo", s)
        ),
        "KTO demo": _turns(data, "kto_en_demo"),
        "tool calls (Glaive)": _turns(data, "glaive_toolcall_en_demo"),
        "GPTeacher, roles": _plain(data, "gpteacher/role*", "instruction+input", "output"),
        "GPTeacher, tools": _plain(data, "gpteacher/tool*", "instruction+input", "output"),
        "Tulu": _plain(data, "tulu_human_eval/*", "prompt", "completion_a", "completion_b"),
        "GSM8K, models": _plain(
            data, "gsm8k/example*", "question", "6b_finetuning", "175b_verification"
        ),
        "MATH-500": _plain(data, "math500/*", "problem", "solution"),
        "MATH-500, last numbers": _plain(data, "math500/*", "problem", "answer"),
        "constitutional, labels": (
            p for k in chosen for p in _plain(data, labels, "prompt", k) if p
        ),
        "constitutional, samples": _samples(data),
        "sycophancy": _plain(
            data, "sycophancy/sycophancy", "prompt", "s_completion", "n_completion"
        ),
        "sycophancy, letters": _plain(
            data, "sycophancy/*_ab_*", "question", "answer_matching_behavior"
        ),
        "XSTest: Llama 2 (refuses most)": _plain(
            data, "xstest/*llama2orig", "prompt", "completion"
        ),
        "XSTest: GPT-4, Mistral": _plain(data, "xstest/*_[gm]*", "prompt", "completion"),
    }
    yield from ((name, pairs) for name, group in groups.items() for pairs in group)


def _samples(data: Path) -> Iterator[Pairs]:
    files = sorted((data / "constitutional").glob("samples_*.jsonl.gz"))
    read = [r for file in files for r in rows(file) if r.get("sampled_answers")]
    yield [(r["rl_prompt"], _text(r["sampled_answers"])) for r in read]


def drawn(pairs: Pairs, size: int, wrong: float | str, draw: random.Random) -> Pairs:
    """Some rows in order, some of them joined wrongly."""
    chosen = sorted(draw.sample(range(len(pairs)), min(size, len(pairs))))
    if wrong == "foreign":
        chosen = chosen[: len(pairs) // 2]  # the other answers are to be from rows left out
    prompts = [pairs[i][0] for i in chosen]
    answers = [pairs[i][1] for i in chosen]
    if wrong == "shift":
        answers = [answers[-1], *answers[:-1]]
    elif wrong == "foreign":
        here = set(prompts)
        apart = [answer for prompt, answer in pairs if prompt not in here]
        for i in draw.sample(range(len(answers)), round(0.6 * len(answers))):
            answers[i] = draw.choice(apart) if apart else answers[i]
    else:
        assert isinstance(wrong, float)
        places = draw.sample(range(len(answers)), round(wrong * len(answers)))
        taken = draw.sample(places, len(places))
        answers = list(answers)
        before = list(answers)
        for place, other in zip(places, taken, strict=True):
            answers[place] = before[other]
    return list(zip(prompts, answers, strict=True))


def measure(data: Path, out: Path, draws: int) -> list[dict[str, Any]]:
    lines = out.read_text().splitlines() if out.exists() else []
    found = [json.loads(line) for line in lines]
    known = {(f["set"], f["part"], f["size"], f["wrong"], f["draw"]) for f in found}
    with out.open("a") as file:
        for half, sets in (("testing", testing(data)), ("tuning", tuning(data))):
            parts: dict[str, int] = defaultdict(int)
            for name, pairs in sets:
                parts[name] += 1
                for size in SIZES[: 1 + sum(len(pairs) > s for s in SIZES[:-1])]:
                    for wrong in WRONG:
                        for draw in range(draws if size < SIZES[-1] else max(1, draws // 4)):
                            key = (name, parts[name], size, wrong, draw)
                            if key in known:
                                continue
                            rng = random.Random(repr(key))
                            line = _measured(half, key, drawn(pairs, size, wrong, rng))
                            file.write(json.dumps(line) + "\n")
                            found.append(line)
                file.flush()
    return found


def _measured(half: str, key: tuple[Any, ...], pairs: Pairs) -> dict[str, Any]:
    name, part, size, wrong, draw = key
    result = joined([p for p, _ in pairs], [(i, answer) for i, (_, answer) in enumerate(pairs)])
    line = {"half": half, "set": name, "part": part, "size": size, "wrong": wrong, "draw": draw}
    figures = {
        "told": result.told, "looked": result.looked, "judged": result.judged / len(pairs),
        "share": result.share.value, "shift": result.shift,
    }  # fmt: skip
    return line | figures


def table(found: list[dict[str, Any]], half: str) -> Iterator[str]:
    heads = [f"{w:.0%}" if isinstance(w, float) else w for w in WRONG]
    yield f"| {half} | rows | judged | share at 0%, 20%, 60% | " + " | ".join(heads) + " |"
    yield "|---|---|---|---|" + "---|" * len(WRONG)
    cells: dict[tuple[str, int], dict[float | str, list[dict[str, Any]]]] = {}
    for line in (f for f in found if f["half"] == half):
        cell = cells.setdefault((line["set"], line["size"]), {})
        cell.setdefault(line["wrong"], []).append(line)
    for (name, size), cell in cells.items():
        judged = _mean(line["judged"] for line in cell[0.0])
        shares = ", ".join(
            f"{_mean(f['share'] for f in cell[w] if f['looked']):.2f}" for w in (0.0, 0.2, 0.6)
        )
        told = [f"{sum(f['told'] for f in cell[w])} of {len(cell[w])}" for w in WRONG]
        yield f"| {name} | {size} | {judged:.0%} | {shares} | " + " | ".join(told) + " |"


def _mean(of: Iterator[float]) -> float:
    values = list(of)
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="figures, one a line")
    parser.add_argument("--draws", type=int, default=20, help="of each set and size below 1000")
    args = parser.parse_args()
    found = measure(args.data, args.out, args.draws)
    for half in ("tuning", "testing"):
        print("\n".join(table(found, half)), end="\n\n")


if __name__ == "__main__":
    main()
