"""HumanEval's tasks of lm-eval with its programs graded in gnomon's sandbox.

The prompts, stop strings, repeats and the cut of an answer into a program are lm-eval's; the
program then runs against HumanEval's tests where it can read and write nothing else
(:mod:`gnomon.sandbox`), never through ``code_eval``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gnomon.errors import ConfigError
from gnomon.sandbox import Limits, Sandbox, SandboxError

GRADED = "sandbox"
"""The name of the filter that grades."""
SECONDS = 10.0
"""Of wall time that a program has for all of a problem's tests (``code_eval`` gives 3)."""
_FENCE = "```"


class Programs:
    """lm-eval's filter: the answers to each problem as 1 (all tests passed), 0, or the reason why
    they could not be run."""

    def __init__(self, instruct: bool) -> None:
        self._instruct = instruct
        self._sandbox: Sandbox | None = None

    def __call__(
        self, answers: Sequence[Sequence[str]], problems: Sequence[Mapping[str, Any]]
    ) -> list[list[float | str]]:
        if self._sandbox is None:
            try:
                self._sandbox = Sandbox(limits=Limits(wall_seconds=SECONDS))
            except SandboxError as error:
                raise ConfigError(f"HumanEval's programs need a sandbox: {error}") from error
        work = [
            partial(self._passes, text, problem)
            for texts, problem in zip(answers, problems, strict=True)
            for text in texts
        ]
        found = iter(self._sandbox.map(work))
        return [[_grade(next(found)) for _ in texts] for texts in answers]

    def _passes(self, text: str, problem: Mapping[str, Any]) -> bool:
        assert self._sandbox is not None
        prompt, entry = str(problem["prompt"]), str(problem["entry_point"])
        if self._instruct:  # the prompt ends within a fenced block
            text = text.partition(_FENCE)[0]
        tests = [f"{problem['test']}\ncheck({entry})\n"]
        done = self._sandbox.run_asserts(prompt + text, tests, setup=prompt, functions=[entry])
        return done.all_passed


def _grade(result: Any) -> float | str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {result}"
    return float(result)


def graded(problem: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """lm-eval's ``process_results``: the share of a problem's answers that pass."""
    marks = list(results[0])
    failed = [mark for mark in marks if isinstance(mark, str)]
    if failed:
        raise RuntimeError(f"{problem['task_id']}: {failed[0]}")
    return {"pass@1": marks}


def program_task(name: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration of one of HumanEval's tasks with the sandbox as its grader.

    Raises:
        ConfigError: a task of programs of another kind.
    """
    if not name.startswith("humaneval"):
        raise ConfigError(
            f"task {name} runs the model's programs with your own rights, so it is refused; "
            "HumanEval's tasks are graded in gnomon's sandbox"
        )
    kept = {k: v for k, v in (config or {}).items() if k not in ("unsafe_code", "tag", "include")}
    filters = [{"function": "custom", "filter_fn": Programs("instruct" in name)}]
    return {
        **kept,
        "task": name,
        "filter_list": [{"name": GRADED, "filter": filters}],
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "process_results": graded,
    }
