"""Small files of questions, models and engines for the tests of lm-eval's and inspect's tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

from gnomon.data.encode import Encoder
from gnomon.evals.evaluate import evaluate
from gnomon.evals.subject import Model
from gnomon.evals.table import make_suite
from gnomon.models.roles import Role
from gnomon.rollout.protocol import Completion, Engine, Progress, Request, SamplingParams
from gnomon.runs.evals import EvalResult

Row = dict[str, Any]


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def mmlu_rows(first: int, count: int, subjects: Sequence[str]) -> list[Row]:
    """Sums in the form of DeepSeek's copy of MMLU."""
    return [
        {"question": f"What is {i} + {i}?", "options": [str(2 * i), str(i), "red", "a cat"],
         "answer": "ABCD"[i % 4], "topic": subject, "id": i}
        for subject in subjects
        for i in range(first, first + count)
    ]  # fmt: skip


def gsm8k_rows(first: int, count: int) -> list[Row]:
    return [
        {"question": f"{i} and {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"}
        for i in range(first, first + count)
    ]


def truthfulqa_rows(count: int) -> list[Row]:
    return [
        {"Type": "Adversarial", "Category": "Sums", "Question": f"What is {i} plus {i}?",
         "Best Answer": f"It is {2 * i}", "Source": "-",
         "Correct Answers": f"It is {2 * i}; {i} plus {i} is {2 * i}",
         "Incorrect Answers": f"It is {i}; It is a cat; the sum is red and warm"}
        for i in range(count)
    ]  # fmt: skip


def humaneval_rows() -> list[Row]:
    """Two problems in HumanEval's form."""
    return [
        {"task_id": f"T/{name}", "prompt": f'def {name}(x):\n    """{name} of x"""\n',
         "entry_point": name, "canonical_solution": f"    return {body}\n",
         "test": f"def check(candidate):\n    assert candidate(3) == {result}\n"
                 f"    assert candidate(0) == {zero}\n"}
        for name, body, result, zero in (("double", "2 * x", 6, 0), ("square", "x * x", 9, 0))
    ]  # fmt: skip


def save_word_model(folder: Path) -> Path:
    """A tiny random model with a tokenizer of 64 whole words (``w3`` to ``w63``)."""
    words = ["<bos>", "<eos>", "<pad>", *(f"w{i}" for i in range(3, 64))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    tf.PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    config = tf.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Scripted(Engine):
    """Answers each prompt by a function of its text."""

    shares_weights = True

    def __init__(self, role: Role, answer: Callable[[str, int], str]) -> None:
        self._tokenizer, self._answer = role.trunk.tokenizer, answer
        self.asked: list[str] = []

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        found = []
        for request in requests:
            text = self._tokenizer.decode(list(request.prompt_ids))
            self.asked.append(text)
            answer = self._answer(text, len(self.asked) - 1)
            found.append([Completion((5, 6), torch.zeros(2), "eos", answer)])
        return found


def scripted(folder: Path, answer: Callable[[str, int], str], name: str = "tiny") -> Model:
    def make(role: Role, encoder: Encoder) -> Engine:
        return Scripted(role, answer)

    return Model(str(folder), name, make_engine=make)


def measured(
    suite: str, options: Mapping[str, Any], base: Path, model: Model, **more: Any
) -> tuple[EvalResult, list[Row]]:
    """The record and the rows of an eval."""
    made = make_suite(suite, options, base)
    result = evaluate(made, model, base / "run", **more)
    file = base / "run" / "evals" / model.name / f"{made.name}.jsonl"
    return result, [json.loads(line) for line in file.read_text().splitlines()]
