"""HumanEval's tasks of lm-eval with its programs graded in gnomon's sandbox.

The prompts, stop strings, repeats and the cut of an answer into a program are lm-eval's; the
program then runs against HumanEval's tests where it can read and write nothing else
(:mod:`gnomon.sandbox`), never through ``code_eval``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gnomon.errors import ConfigError
from gnomon.sandbox import Sandbox, SandboxError

GRADED = "sandbox"
"""The name of the filter that grades."""
_FENCE = "```"


def grader(instruct: bool) -> Callable[..., list[list[float | str]]]:
    """lm-eval's filter: the answers to each problem as 1 (all tests passed), 0, or the reason why
    they could not be run.

    Args:
        instruct: the prompt ends within a fenced block, and so does the program.
    """

    def passes(sandbox: Sandbox, text: str, problem: Mapping[str, Any]) -> bool:
        prompt, entry = str(problem["prompt"]), str(problem["entry_point"])
        program = prompt + (text.partition(_FENCE)[0] if instruct else text)
        tests = [f"{problem['test']}\ncheck({entry})\n"]
        return sandbox.run_asserts(program, tests, setup=prompt, functions=[entry]).all_passed

    def grade(
        answers: Sequence[Sequence[str]], problems: Sequence[Mapping[str, Any]]
    ) -> list[list[float | str]]:
        try:
            sandbox = Sandbox()
        except SandboxError as error:
            raise ConfigError(f"HumanEval's programs need a sandbox: {error}") from error
        pairs = zip(answers, problems, strict=True)
        work = [partial(passes, sandbox, text, p) for texts, p in pairs for text in texts]
        marks = iter([_mark(result) for result in sandbox.map(work)])
        return [[next(marks) for _ in texts] for texts in answers]

    return grade


def _mark(result: Any) -> float | str:
    if isinstance(result, Exception):
        return f"{type(result).__name__}: {result}"
    return float(result)


def graded(problem: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """lm-eval's ``process_results``: the share of a problem's answers that pass."""
    marks = list(results[0])
    failed = [mark for mark in marks if isinstance(mark, str)]
    if failed:
        raise RuntimeError(f"{problem['task_id']}: {failed[0]}")
    return {"pass@1": sum(marks) / len(marks)}


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
    filters = [{"function": "custom", "filter_fn": grader("instruct" in name)}]
    return {
        **kept,
        "task": name,
        "filter_list": [{"name": GRADED, "filter": filters}],
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "process_results": graded,
    }
