"""Sampling in mixed precision: narrow copies of weights and keys, made once and never stale."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from rollout_zoo import family_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gnomon.models.precision import Precision
from gnomon.models.roles import Role, Trunk
from gnomon.rollout import Request, SamplingParams, TorchEngine
from gnomon.rollout.torch_engine import CacheOptions

ASKED = [Request(str(i), [5, 9, 33 + i], n=2, seed=i) for i in range(3)]


class Narrowed(TorchDispatchMode):
    """Counts how often each parameter is copied to bfloat16."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.names = {p.data_ptr(): name for name, p in model.named_parameters()}
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            name = self.names.get(args[0].data_ptr())
            self.copies.update([name] if name else [])
        return func(*args, **kwargs)


def make(tokenizer: Any, paged: bool) -> tuple[Role, TorchEngine]:
    model = family_model("llama", len(tokenizer))
    role = Role("policy", Trunk(model, tokenizer, precision=Precision("mixed")), trainable=True)
    engine = TorchEngine(
        model,
        tokenizer,
        activate=lambda: role.trunk.active(None),
        eos_token_ids=(),
        cache=CacheOptions(paged=paged, page=4),
    )
    return role, engine


@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize("steps", [2, 20])
def test_a_weight_is_narrowed_once_however_many_tokens_are_drawn(paged, steps, tokenizer):
    role, engine = make(tokenizer, paged)
    engine.generate(ASKED[:1], SamplingParams(max_new_tokens=2))
    with Narrowed(role.trunk.model) as seen:
        engine.generate(ASKED, SamplingParams(max_new_tokens=steps))
    assert set(seen.copies.values()) == {1}
    assert len(seen.copies) == 7 * role.trunk.model.config.num_hidden_layers + 1


@pytest.mark.parametrize("paged", [True, False])
def test_a_step_of_the_optimizer_is_seen_by_the_next_sampling(paged, tokenizer):
    params = SamplingParams(max_new_tokens=12)
    role, engine = make(tokenizer, paged)
    engine.generate(ASKED, params)
    with torch.no_grad():
        for parameter in role.trunk.model.parameters():
            parameter.mul_(1.3)
    fresh_role, fresh = make(tokenizer, paged)
    fresh_role.trunk.model.load_state_dict(role.trunk.model.state_dict())
    for mine, theirs in zip(
        engine.generate(ASKED, params), fresh.generate(ASKED, params), strict=True
    ):
        for a, b in zip(mine, theirs, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.logprobs, b.logprobs)


@pytest.mark.parametrize("paged", [True, False])
def test_keys_are_kept_in_the_type_they_are_multiplied_in(paged, tokenizer):
    """Rotated keys come in float32 under autocast: half of a cache would be twice as large, and be
    narrowed whole at every step."""
    role, engine = make(tokenizer, paged)
    engine.generate(ASKED, SamplingParams(max_new_tokens=2))
    config = role.trunk.model.config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert engine._token_bytes == 2 * numbers


def test_what_is_drawn_is_what_the_model_says(tokenizer):
    """The log-probs of drawn tokens are those of a pass under autocast over the same text."""
    role, engine = make(tokenizer, True)
    for request, row in zip(
        ASKED, engine.generate(ASKED, SamplingParams(max_new_tokens=9)), strict=True
    ):
        for drawn in row:
            ids = torch.tensor([[*request.prompt_ids, *drawn.ids]])
            with role.trunk.active(None), torch.no_grad():
                logits: Tensor = role.trunk.model(input_ids=ids).logits[0]
            at = slice(len(request.prompt_ids) - 1, -1)
            own = logits.float().log_softmax(-1)[at].gather(1, ids[0, at.start + 1 :, None])[:, 0]
            torch.testing.assert_close(drawn.logprobs.float(), own, atol=0.03, rtol=0.03)
