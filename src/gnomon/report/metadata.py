"""The YAML at the top of a model card, as the Hugging Face hub reads it.

What is not stated is left out: the hub shows an absent licence as absent. Ids of the hub are only
those that the recipe's ``card`` states, since a path in a recipe may be a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from huggingface_hub import EvalResult as HubResult
from huggingface_hub import ModelCardData

from gnomon.report.compute import CONTROL
from gnomon.report.facts import Facts
from gnomon.report.markdown import plain
from gnomon.runs.evals import EvalResult

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
HELD_OUT = "held-out comparisons of the run"


def front_matter(facts: Facts) -> str:
    """The block between two lines of ``---``."""
    stated = facts.stated
    results = list(_results(facts))
    reward, licence = facts.is_reward, _licence(facts)
    plays = CONTROL in methods(facts)
    task = "text-classification" if reward else "text-generation"
    data = ModelCardData(
        base_model=stated.base_model or None,
        datasets=_datasets(facts) or None,
        language=[plain(code) for code in stated.languages] or None,
        library_name="stable-baselines3" if plays else "transformers",
        pipeline_tag="reinforcement-learning" if plays else task,
        tags=_tags(facts),
        eval_results=results or None,
        model_name=plain(facts.name) if results else None,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    )
    return f"---\n{data.to_yaml()}\n---"


def _licence(facts: Facts) -> dict[str, str | None]:
    licence, link = plain(facts.stated.licence), plain(facts.stated.licence_link) or None
    if not licence:
        return {}
    if _LICENCE.fullmatch(licence):
        return {"license": licence, "license_link": link if licence == "other" else None}
    return {"license": "other", "license_name": licence, "license_link": link}


def _datasets(facts: Facts) -> list[str]:
    ids = [s.stated.hub for s in facts.sources() if s.stated is not None]
    return list(dict.fromkeys(filter(None, ids)))


def _tags(facts: Facts) -> list[str]:
    own = "reward-model" if facts.is_reward else "rlhf"
    return list(dict.fromkeys(["gnomon", own, *map(plain, filter(None, methods(facts)))]))


def methods(facts: Facts) -> list[str]:
    """Of the stages that made the model."""
    return [s.info.algorithm for s in facts.stages if s.name in facts.chain]


def _results(facts: Facts) -> Iterator[HubResult]:
    for result in facts.evals:
        figure = result.scores.get(result.main)
        if figure is not None:
            yield HubResult(
                task_type="text-generation",
                dataset_name=plain(result.suite),
                dataset_type=_slug(result.suite),
                metric_type=plain(result.main),
                metric_name=_metric_name(result),
                metric_value=figure.value,
            )
    if facts.is_reward and facts.subject is not None:
        accuracy = facts.subject.info.held_out.get("accuracy")
        if isinstance(accuracy, float):
            yield HubResult(
                task_type="text-classification",
                dataset_name=HELD_OUT,
                dataset_type=_slug(HELD_OUT),
                metric_type="accuracy",
                metric_value=accuracy,
            )


def _metric_name(result: EvalResult) -> str:
    judged = f" by {result.judge}" if result.judge else ""
    against = f" against {result.against}" if result.against else ""
    return plain(f"{result.main}{against}{judged}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "eval"
