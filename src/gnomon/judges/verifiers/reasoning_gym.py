"""reasoning-gym's generators as prompts and its own graders as a verifier (extra reasoning-gym).

    data:   {path: "reasoning-gym:chain_sum", options: {n: 2000, seed: 1, max_terms: 3}}
    reward: reasoning_gym

A prompt's ``meta`` keeps which generator it is from, its settings and its place, so a grader in a
process of its own makes the very same entry again and scores the response with the dataset's
``score_answer``. (Stojanovski et al. 2025, arXiv 2505.24760.)
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.rewards import VerifierReward

FIELD = "reasoning_gym"
"""The field of ``Prompt.meta`` that says where the prompt is from."""
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
Extract = Literal["tags", "tags_or_all", "all"]


def library() -> Any:
    """The package itself.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ConfigError(
            f"reasoning-gym is not installed ({error}); pip install gnomon-rlhf[reasoning-gym]"
        ) from error


def open_dataset(name: str, config: Mapping[str, Any]) -> Any:
    """A generator with its settings (``size`` and ``seed`` among them).

    Raises:
        ConfigError: no such generator, with the nearest names; settings it does not take.
    """
    gym = library()
    known = importlib.import_module("reasoning_gym.factory").DATASETS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"reasoning-gym has no dataset {name!r}; {hint}")
    try:
        return gym.create_dataset(name, **config)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning-gym:{name}: its options {dict(config)}: {error}") from error


def reasoning_gym(
    *,
    extract: Extract = "tags_or_all",
    unfinished: float | None = 0.0,
    timeout_s: float = 10.0,
    workers: int = 2,
) -> VerifierReward:
    """The score of the dataset's own grader, 0 to 1; part ``correct``: the score is full.

    Many graders give a little for a near miss or for an answer with text around it.

    Args:
        extract: what is graded: the last <answer>...</answer> (else nothing), that or else the
            whole response, or always the whole response.
        unfinished: the value of a response that was cut off; None grades it like any other.
        timeout_s, workers: of the processes that grade; some graders parse answers as formulas.

    Raises:
        ConfigError: not installed, or an unknown ``extract``.
    """
    library()
    if extract not in ("tags", "tags_or_all", "all"):
        raise ConfigError(
            f"reasoning_gym reward: extract is tags, tags_or_all or all, not {extract!r}"
        )
    return VerifierReward(
        "gnomon.judges.verifiers.reasoning_gym:grader",
        "reasoning_gym",
        field=FIELD,
        unfinished=unfinished,
        options={"extract": extract},
        timeout_s=timeout_s,
        workers=workers,
    )


def grader(extract: Extract) -> Callable[[str, Any], Any]:
    """The verifier, made in the worker; the library is loaded before the first question's clock."""
    library()

    def verify(text: str, kept: Mapping[str, Any]) -> Sequence[Any]:
        dataset, entry = _entry(
            kept["dataset"], json.dumps(kept["config"], sort_keys=True), kept["index"]
        )
        if str(entry["question"]) != kept["question"]:
            raise ValueError(
                f"reasoning-gym:{kept['dataset']} entry {kept['index']} is another question now: "
                "the prompts were made by another version of reasoning-gym; make them again"
            )
        answer = extracted(text, extract)
        score = 0.0 if answer is None else float(dataset.score_answer(answer, entry))
        return score, {"correct": float(score >= 1.0)}

    return verify


@lru_cache(maxsize=4096)
def _entry(name: str, config: str, index: int) -> tuple[Any, Any]:
    dataset = _dataset(name, config)
    return dataset, dataset[index]


@lru_cache(maxsize=64)
def _dataset(name: str, config: str) -> Any:
    return open_dataset(name, json.loads(config))


def extracted(text: str, extract: Extract) -> str | None:
    """The answer that is graded; None without one."""
    found = _TAG.findall(text)
    if extract != "all" and found:
        return str(found[-1]).strip() or None
    return None if extract == "tags" else text.strip() or None
