"""The options of ``builtin: ai``, checked before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from gnomon.judges.prompting import Mode
from gnomon.recipe.load import validate_as
from gnomon.recipe.spec import Spec

PRICES = {"price_input", "price_output"}
CAPS = {"budget", "budget_tokens"}
ENDPOINT_ONLY = PRICES | {
    *("url", "api_key_env", "extra", "temperature", "patience_s"),
    *("requests_per_minute", "tokens_per_minute"),
}
PANEL_WIDE = CAPS | {
    *("panel", "vote", "quorum", "mode", "criteria", "ranking", "scores", "orders", "pairs"),
    *("rubric", "rubric_file", "rubric_key", "cache", "ties", "constitution", "categories"),
}
OF_MODE: Mapping[str, set[str]] = {
    "pairs": {"pairs"},
    "ranking": {"orders", "ranking"},
    "rubric": {"rubric_file", "criteria"},
    "pairs ranking": {"ties", "scores"},
}
"""Options that only these modes have."""


class AIOptions(Spec):
    """The options of ``builtin: ai``."""

    model: str | None = Field(None, description="the model's name at the endpoint")
    url: str | list[str] | None = Field(
        None,
        description="of an OpenAI-compatible API; OpenAI's by default; or of several that serve "
        "the same model and share the questions",
    )
    local: str | None = Field(
        None, description="a model in this process instead: a folder or name, as a recipe's model"
    )
    api_key_env: str | None = Field(
        None, description="environment variable with the key; OPENAI_API_KEY by default"
    )
    mode: Mode = Field(
        "pairs",
        description="compare answers in pairs; rank all at once; judge each by a rubric, score it "
        "from 1 to 10, or call it good or bad (approval)",
    )
    template: str | None = Field(None, description="file with a prompt of your own")
    rubric: str | list[Any] = Field(
        "", description="criteria, put into the prompt; in mode: rubric a list of them with weights"
    )
    rubric_file: str | None = Field(None, description="YAML file with the criteria of mode: rubric")
    rubric_key: str | None = Field(
        None, description="where each prompt's meta has a rubric of its own"
    )
    constitution: str | None = Field(
        None,
        description="a file of principles, or the name of one that comes with gnomon: each "
        "prompt's answers are judged by one of them",
    )
    categories: list[str] = Field(
        default_factory=list, description="of the constitution's principles; all by default"
    )
    criteria: Literal["each", "together", "overall"] = Field(
        "each",
        description="a rubric's criteria: one question each, all in one (answered as JSON), or one "
        "score from 1 to 10 for the whole",
    )
    ties: bool = Field(True, description="whether it may call two answers equal")
    reason: bool = Field(False, description="have it say why before its verdict (costs tokens)")
    pairs: int | None = Field(None, ge=1, description="pairs of a group; all of them by default")
    orders: int = Field(
        2, ge=1, le=24, description="of a ranking's answers; even: each pair both ways round"
    )
    ranking: Literal["order", "best"] = Field(
        "order", description="have it write the whole order, or only name the best (log-probs)"
    )
    scores: Literal["share", "bradley_terry"] = Field(
        "share", description="of pairs and rankings: the share won, or log-strengths"
    )
    seed: int = Field(0, description="of the fences' marks, the pairs, and the model's sampling")
    temperature: float = Field(0.0, ge=0, description="of the model's answers")
    max_tokens: int = Field(512, ge=16, description="of an answer with a reason")
    max_chars: int | None = Field(
        None, ge=1, description="a longer question is an error: servers may cut it silently"
    )
    logprobs: Literal["auto", "yes", "no"] = Field(
        "auto", description="soft verdicts: where the endpoint gives them, always, never"
    )
    budget: float | None = Field(
        None, gt=0, description="euros that its answers may cost; then it stops"
    )
    budget_tokens: int | None = Field(None, ge=1, description="the same in tokens")
    requests_per_minute: float | None = Field(None, gt=0, description="at most, evenly spread")
    tokens_per_minute: float | None = Field(None, gt=0, description="at most, evenly spread")
    patience_s: float = Field(
        0.0, ge=0, description="seconds that an endpoint which is gone is waited for"
    )
    timeout_s: float = Field(60.0, gt=0, description="seconds for one request")
    retries: int = Field(3, ge=0, description="of one request")
    concurrency: int = Field(8, ge=1, le=256, description="requests at the same time")
    price_input: float = Field(0.0, ge=0, description="euros for a million tokens read")
    price_output: float = Field(0.0, ge=0, description="euros for a million tokens written")
    extra: dict[str, Any] = Field(
        default_factory=dict, description="more of the request's body; null takes a key out"
    )
    dtype: str = Field("float32", description="of a model in this process")
    device: str = Field("cpu", description="of a model in this process")
    cache: str | None = Field(None, description="folder in which its answers are kept")
    panel: list[dict[str, Any]] = Field(
        default_factory=list,
        description="several judges instead of one: what is different of each, as in {model: NAME}",
    )
    vote: Literal["mean", "majority"] = Field(
        "mean", description="a panel's verdict: the mean of its probabilities, or a vote"
    )
    quorum: int | None = Field(
        None, ge=1, description="members of a panel that must not fail; all by default"
    )

    @model_validator(mode="after")
    def _one_model(self) -> AIOptions:
        if self.panel:
            self._check_panel()
        elif (self.model is None) == (self.local is None):
            raise ValueError("give model (at an endpoint, with its url) or local, one of them")
        elif {"vote", "quorum"} & self.model_fields_set:
            raise ValueError("vote and quorum are for a panel")
        if isinstance(self.url, list) and (len(set(self.url)) < len(self.url) or not self.url):
            raise ValueError(f"url: {self.url}: give each endpoint's address once")
        if self.local is not None:
            self._check_local()
        prices = self.price_input or self.price_output
        prices = prices or any(m.get(key) for m in self.panel for key in PRICES)
        if self.budget is not None and not prices:
            raise ValueError(
                "a budget in euros needs price_input and price_output: without them nothing costs "
                "anything (or give budget_tokens)"
            )
        self._check_mode()
        return self

    def _check_local(self) -> None:
        unused = sorted(ENDPOINT_ONLY & self.model_fields_set)
        if unused:
            raise ValueError(f"{', '.join(unused)}: only for a model at an endpoint")
        if self.reason:
            raise ValueError("a model in this process gives no reasons: set reason: false")
        if self.mode == "ranking" and self.ranking == "order":
            raise ValueError("a model in this process writes no order: set ranking: best")
        if self.mode == "rubric" and self.criteria == "together":
            raise ValueError("a model in this process writes no JSON: set criteria: each")

    def _check_mode(self) -> None:
        if self.constitution is not None and self.mode not in ("pairs", "ranking"):
            raise ValueError("a constitution asks which is better: set mode: pairs or ranking")
        if self.categories and self.constitution is None:
            raise ValueError("categories are a constitution's: give constitution, too")
        for mode, keys in OF_MODE.items():
            wrong = sorted(keys & self.model_fields_set) if self.mode not in mode.split() else []
            if wrong:
                raise ValueError(f"{', '.join(wrong)} are for mode: {mode.replace(' ', ' or ')}")
        if self.mode == "rubric":
            if isinstance(self.rubric, str) and self.rubric.strip():
                raise ValueError("in mode: rubric, rubric is a list of criteria (or rubric_file)")
            if bool(self.rubric) + (self.rubric_file is not None) > 1:
                raise ValueError("give rubric or rubric_file, not both")
            if not self.rubric and self.rubric_file is None and self.rubric_key is None:
                raise ValueError("mode: rubric needs rubric, rubric_file or rubric_key")
        elif not isinstance(self.rubric, str):
            raise ValueError("a rubric of weighted criteria is for mode: rubric")
        if self.mode == "ranking" and self.ranking == "best" and self.logprobs == "no":
            raise ValueError("ranking: best needs log-probs; remove logprobs: no")

    def _check_panel(self) -> None:
        if len(self.panel) < 2:
            raise ValueError("a panel has two members or more")
        if self.model is not None or self.local is not None:
            raise ValueError("give a panel or one model, not both")
        if self.vote == "majority" and self.mode in ("rubric", "score"):
            raise ValueError(f"mode: {self.mode} gives no verdicts to vote on: set vote: mean")
        if self.quorum is not None and self.quorum > len(self.panel):
            raise ValueError(f"quorum: {self.quorum} of a panel of {len(self.panel)}")
        shared = sorted({key for member in self.panel for key in member} & PANEL_WIDE)
        if shared:
            raise ValueError(f"{', '.join(shared)}: of the whole panel, not of a member")
        self.members()

    def members(self) -> dict[str, AIOptions]:
        """The options of each member of a panel, by its name."""
        own = self.model_dump(include=self.model_fields_set - {"panel", "vote", "quorum"} - CAPS)
        found: dict[str, AIOptions] = {}
        for i, member in enumerate(self.panel, start=1):
            about = dict(member)
            name = str(about.pop("name", None) or about.get("model") or about.get("local") or i)
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rstrip("/").rpartition("/")[2]) or str(i)
            drop = ENDPOINT_ONLY if "local" in about else set()
            given = {k: v for k, v in own.items() if k not in drop} | about
            found[name if name not in found else f"{name}_{i}"] = validate_as(
                AIOptions, given, f"panel, member {i}"
            )
        return found
