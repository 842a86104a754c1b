"""What makes a prompt, a response and an item the same wherever they come in: what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnomon.feedback.records import Item
from gnomon.records import Message, Prompt, Response


def digest(*parts: Any) -> str:
    """32 hexadecimal digits, the same for equal parts (anything that JSON has a word for)."""
    text = json.dumps(parts, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def turns(messages: Sequence[Message]) -> list[list[str]]:
    """Messages as lists: [role, content] each."""
    return [[m.role, m.content] for m in messages]


def prompt_id(prompt: Prompt) -> str:
    """By what the model is asked; the prompt's own id, category and meta do not count."""
    return digest("prompt", turns(prompt.messages), prompt.text)


def response_id(response: Response) -> str:
    """By what it says; who wrote it does not count."""
    return digest("response", turns(response.messages))


def item_id(campaign: str, prompt: Prompt, responses: Sequence[Response]) -> str:
    """By the campaign, the prompt and the responses in their order."""
    return digest("item", campaign, prompt_id(prompt), [response_id(r) for r in responses])


def canonical_order(responses: Sequence[Response]) -> list[int]:
    """An order that depends on what the responses say alone.

    Files list the better response first; in an item its place must tell nothing, and two files that
    list the same answers the other way round must ask the same question.
    """
    return sorted(range(len(responses)), key=lambda i: response_id(responses[i]))


def make_item(
    prompt: Prompt,
    responses: Sequence[Response],
    *,
    campaign: str = "",
    gold: Sequence[float] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Item:
    """An item with its responses in :func:`canonical_order`; what they were ranked is left out.

    Args:
        gold: ranks of the responses as given here, where they are known to be right.
    """
    order = canonical_order(responses)
    arranged = tuple(replace(responses[i], rank=None) for i in order)
    known = None if gold is None else tuple(float(gold[i]) for i in order)
    key = item_id(campaign, prompt, arranged)
    return Item(key, prompt, arranged, campaign, known, dict(origin or {}))
