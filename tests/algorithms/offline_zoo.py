"""A tiny model, packed groups and the parts of a stage, for the tests of off-line methods."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import transformers as tf
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.records import Comparison, TokenGroup, TokenResponse, comparisons_from_ranks
from gnomon.training.learner import Learner

V, EOS, PAD = 40, 1, 2
LORA = LoraSettings(rank=4, alpha=8)


def model(seed: int = 0) -> tf.PreTrainedModel:
    torch.manual_seed(seed)
    config = tf.LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return tf.LlamaForCausalLM(config).eval()


def shaken(base: tf.PreTrainedModel, size: float = 0.02, seed: int = 5) -> tf.PreTrainedModel:
    """A copy of a model that has moved a little, as training would move it."""
    moved = copy.deepcopy(base)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return moved


def _ids(n: int, draw: torch.Generator) -> list[int]:
    return torch.randint(3, V, (n,), generator=draw).tolist()


def pairs(n: int = 6, seed: int = 1) -> list[TokenGroup]:
    """Prompts with a chosen and a rejected response of different lengths."""
    draw = torch.Generator().manual_seed(seed)
    groups = []
    for i in range(n):
        sides = tuple(
            TokenResponse(ids := [*_ids(size, draw), EOS], [True] * len(ids), scalar={"rank": rank})
            for size, rank in ((2 + i % 3, 1.0), (4 - i % 4, 2.0))
        )
        prompt = [0, *_ids(3 + i % 4, draw)]
        category = "even" if i % 2 == 0 else "odd"
        groups.append(TokenGroup(f"g{i}", prompt, sides, (Comparison(0, 1),), category=category))
    return groups


def rankings(n: int = 4, k: int = 3, seed: int = 2) -> list[TokenGroup]:
    """Prompts with K ranked responses."""
    draw = torch.Generator().manual_seed(seed)
    groups = []
    for i in range(n):
        responses = tuple(
            TokenResponse(
                ids := [*_ids(2 + j, draw), EOS], [True] * len(ids), scalar={"rank": j + 1.0}
            )
            for j in range(k)
        )
        ranks = [r.scalar["rank"] for r in responses]
        prompt = [0, *_ids(4, draw)]
        groups.append(TokenGroup(f"r{i}", prompt, responses, comparisons_from_ranks(ranks)))
    return groups


def labelled(n: int = 8, seed: int = 3) -> list[TokenGroup]:
    """Single answers, every third one bad."""
    groups = []
    for i, group in enumerate(pairs(n, seed)):
        label = {"label": float(i % 3 != 2)}
        groups.append(
            replace(group, responses=(replace(group.responses[0], scalar=label),), comparisons=())
        )
    return groups


@dataclass(frozen=True)
class Given:
    """What a stage hands to an off-line method."""

    bench: Workbench
    groups: Sequence[TokenGroup]
    held_out: Sequence[TokenGroup]


def given(
    groups: Sequence[TokenGroup],
    base: tf.PreTrainedModel | None = None,
    *,
    lora: LoraSettings | None = None,
    reference: str | None = None,
    held_out: Sequence[TokenGroup] = (),
    batch_size: int | None = None,
    **more: object,
) -> Given:
    """What a stage would hand over; ``reference``: None, "frozen" or "moving"."""
    base = model() if base is None else base
    trunk = Trunk(copy.deepcopy(base), None, fingerprint="base")
    if lora is not None:
        trunk.add_adapter("policy", lora, seed=3)
    roles = {}
    if reference is not None and lora is None:
        roles["reference"] = Role("reference", trunk.copy())
    elif reference == "moving":
        trunk.add_adapter("reference", init_from="policy")
        roles["reference"] = Role("reference", trunk, adapter="reference")
    elif reference is not None:
        roles["reference"] = Role("reference", trunk)
    adapter = None if lora is None else "policy"
    roles["policy"] = Role("policy", trunk, adapter=adapter, trainable=True)
    settings = {"iterations": 4, "tokens_per_microbatch": 10_000, "seed": 7} | more
    size = len(groups) if batch_size is None else batch_size
    return Given(Workbench(roles, batch_size=size, **settings), groups, held_out)


def make(name: str, parts: Given, **settings: object) -> Learner:
    """A method by its recipe name, at work on what it was given."""
    return tw.on_groups(name, parts.bench, parts.groups, settings, held_out=parts.held_out)


def move(learner: Learner, to: tf.PreTrainedModel) -> None:
    """Give the policy other weights than those its reference was computed with."""
    learner.roles["policy"].trunk.model.load_state_dict(to.state_dict())


def step(learner: Learner, budget: int | None = None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step, in micro-batches of at most ``budget`` tokens."""
    (minibatch,) = learner.experience(0).minibatches
    tokens = budget or learner.bench.tokens_per_microbatch
    return tw.step_gradient(learner, minibatch.groups, tokens=tokens)


def assert_same(gradient: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Two gradients differ by rounding alone."""
    size = max(float(g.abs().max()) for g in other.values())
    assert size > 0
    for name, value in gradient.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5 * size, msg=name)


def padded_logprobs(network: tf.PreTrainedModel, group: TokenGroup) -> list[Tensor]:
    """Per-token log-probs of each response, from transformers' forward on one row at a time."""
    out = []
    for response in group.responses:
        row = torch.tensor([[*group.prompt_ids, *response.ids]])
        logits = network(row).logits[0, len(group.prompt_ids) - 1 : -1]
        chosen = torch.tensor(response.ids)[:, None]
        out.append(logits.log_softmax(-1).gather(1, chosen)[:, 0])
    return out


def naive(
    network: tf.PreTrainedModel,
    base: tf.PreTrainedModel,
    groups: Sequence[TokenGroup],
    loss: Callable[..., Tensor],
) -> Tensor:
    """Mean over prompts of the mean over pairs of ``loss(chosen, rejected, ref_..., ref_...)``."""
    total = torch.zeros(())
    for group in groups:
        now, then = padded_logprobs(network, group), padded_logprobs(base, group)
        each = [
            loss(now[c.better], now[c.worse], then[c.better].detach(), then[c.worse].detach())
            for c in group.comparisons
        ]
        total = total + torch.stack(each).mean()
    return total / len(groups)
