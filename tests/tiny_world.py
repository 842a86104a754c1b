"""A tiny language model with the tunnel's tokenizer, token groups, and recipes for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor

import gnomon
from gnomon.algorithms.base import Algorithm, Step, Workbench
from gnomon.algorithms.metric import Metric, MetricSums
from gnomon.algorithms.registry import find_method
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.losses.reduce import Totals
from gnomon.models.heads import ScalarHead
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.records import Comparison, Message, Prompt, TokenGroup, TokenResponse
from gnomon.tasks.tunnel.tokenizer import build_tokenizer
from gnomon.training.learner import GivenSource, Learner
from gnomon.training.sampled import Played, SampledSource

EOS = 2
CONTEXT = 256
LORA = LoraSettings(rank=4, alpha=8)


@lru_cache(maxsize=1)
def tokenizer() -> tf.PreTrainedTokenizerFast:
    return build_tokenizer()


def tiny_model(seed: int = 0) -> tf.LlamaForCausalLM:
    """2 layers of width 32, weights large enough that the distributions are far from uniform."""
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    torch.manual_seed(seed)
    return tf.LlamaForCausalLM(config).eval()


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """The same as a folder that a recipe can name."""
    tiny_model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def trunk(seed: int = 0, **more: Any) -> Trunk:
    return Trunk(tiny_model(seed), tokenizer(), fingerprint=f"tiny-{seed}", **more)


def head(seed: int = 0, outputs: int = 1, bias: bool = False) -> ScalarHead:
    torch.manual_seed(seed)
    return ScalarHead(32, outputs, init_std=0.5, bias=bias)


def shake(role: Role, size: float = 0.05, seed: int = 5) -> None:
    """Move a role's trained parameters, as an update would."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in role.parameters():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=draw))


# -- groups ---------------------------------------------------------------------------------------


class Draw:
    """Random tokens from a seed; ids below 300 are all ordinary bytes or specials, 8.. are used."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def ids(self, n: int) -> list[int]:
        return torch.randint(8, 250, (n,), generator=self._generator).tolist()

    def response(self, n: int, hidden: slice | None = None, **scalar: float) -> TokenResponse:
        """n tokens, the last one EOS; those in ``hidden`` do not count (a later user turn)."""
        mask = [True] * n
        if hidden is not None:
            mask[hidden] = [False] * len(mask[hidden])
        return TokenResponse([*self.ids(n - 1), EOS], mask, scalar=scalar)


def demonstrations(seed: int = 0) -> list[TokenGroup]:
    """Different lengths; one conversation of several turns."""
    d = Draw(seed)
    shapes = [(5, 3), (2, 9), (11, 1), (4, 12), (7, 6)]
    groups = [
        TokenGroup(f"demo-{i}", d.ids(p), (d.response(t),)) for i, (p, t) in enumerate(shapes)
    ]
    return [*groups, TokenGroup("turns", d.ids(6), (d.response(10, hidden=slice(3, 7)),))]


def documents(seed: int = 50) -> list[TokenGroup]:
    d = Draw(seed)
    return [TokenGroup(f"text-{i}", d.ids(1), (d.response(n),)) for i, n in enumerate((8, 15, 4))]


def rankings(seed: int = 0) -> list[TokenGroup]:
    """Pairs, rankings of 3 and 4, a tie, margins, weights of comparisons and of groups."""
    d = Draw(seed)

    def group(name: str, lengths: Sequence[int], ranks: Sequence[float], **more: Any) -> TokenGroup:
        responses = tuple(d.response(n, rank=rank) for n, rank in zip(lengths, ranks, strict=True))
        comparisons = tuple(
            Comparison(
                *((i, j) if ranks[i] <= ranks[j] else (j, i)),
                weight=more.get("pair_weight", 1.0),
                margin=0.0 if ranks[i] == ranks[j] else more.get("margin", 0.0),
                tie=ranks[i] == ranks[j],
            )
            for i in range(len(ranks))
            for j in range(i + 1, len(ranks))
        )
        return TokenGroup(name, d.ids(5), responses, comparisons, weight=more.get("weight", 1.0))

    return [
        group("pair", (4, 7), (1, 2)),
        group("pair, other way", (3, 9), (2, 1), margin=0.7),
        group("tie", (6, 6), (1, 1)),
        group("three", (3, 5, 8), (2, 1, 3), weight=0.5),
        group("four", (4, 4, 6, 2), (1, 3, 3, 2), pair_weight=0.3),
        group("heavy", (5, 3), (1, 2), weight=2.0, margin=0.2),
    ]


def prompts(n: int = 4, seed: int = 9) -> list[EncodedPrompt]:
    d = Draw(seed)
    return [
        EncodedPrompt(Prompt(f"p{i}", (Message("user", f"question {i}"),)), d.ids(3 + i % 3))
        for i in range(n)
    ]


# -- methods --------------------------------------------------------------------------------------


def method(name: str) -> type[Algorithm]:
    """The class behind a recipe's ``algorithm:``."""
    return find_method(name).algorithm


def settings(name: str, **given: Any) -> Any:
    """A method's settings, those that are not given at their defaults."""
    return find_method(name).settings(**given)


def role_names(name: str, **given: Any) -> tuple[str, ...]:
    """The roles that a method needs with these settings."""
    return tuple(need.name for need in method(name).needs(settings(name, **given)))


def moves(name: str, role: str, **given: Any) -> bool:
    """Whether a role follows the policy with these settings."""
    return any(n.name == role and n.moves for n in method(name).needs(settings(name, **given)))


def on_groups(
    name: str,
    bench: Workbench,
    groups: Sequence[TokenGroup],
    given: Mapping[str, Any],
    *,
    held_out: Sequence[TokenGroup] = (),
    text: Sequence[TokenGroup] = (),
) -> Learner:
    """A method at work on given groups."""
    algorithm = method(name)(settings(name, **given), replace(bench, method=name))
    return Learner(algorithm, GivenSource(algorithm, groups, held_out), text)


def on_prompts(
    name: str,
    bench: Workbench,
    played: Played,
    given: Mapping[str, Any],
    *,
    prompts: Sequence[EncodedPrompt],
    held_out: Sequence[EncodedPrompt] = (),
    text: Sequence[TokenGroup] = (),
) -> Learner:
    """A method at work on what its policy writes to prompts."""
    longest = played.sampling.params.max_new_tokens
    if played.environment is not None:
        longest = played.environment.max_episode_tokens
    bench = replace(bench, method=name, samples=played.sampling.samples, longest_response=longest)
    algorithm = method(name)(settings(name, **given), bench)
    return Learner(algorithm, SampledSource(algorithm, prompts, played, held_out), text)


def sampled(learner: Learner) -> SampledSource:
    """The source of a learner that samples."""
    assert isinstance(learner.source, SampledSource)
    return learner.source


def step_of(
    learner: Learner,
    groups: Sequence[TokenGroup],
    text: Sequence[TokenGroup] = (),
    iteration: int = 0,
) -> Step:
    """An iteration's optimizer step on these groups."""
    return replace(learner.source.step(iteration), totals=Totals.of(groups, text))


def figures(*outputs: Mapping[str, Metric]) -> dict[str, float]:
    """The metrics of micro-batches as the loop logs them."""
    sums = MetricSums()
    for metrics in outputs:
        sums.add(metrics)
    return sums.values()


def step_figures(
    learner: Learner, groups: Sequence[TokenGroup], *, tokens: int = 100_000
) -> dict[str, float]:
    """What the loss logs of a step that is cut into micro-batches of ``tokens`` tokens."""
    learner.bench.tokens_per_microbatch = tokens
    step = step_of(learner, groups)
    trained = [g for g in groups if g.trained]
    return figures(*(learner.loss(b, step).metrics for b in learner.bench.batches(trained)))


READS = ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "cpu", "numpy")


@contextmanager
def watched_reads() -> Iterator[list[str]]:
    """The folders of gnomon (``losses``) whose code reads numbers off tensors meanwhile, in order.

    On an accelerator each such read waits for the device.
    """
    seen: list[str] = []
    package = f"{Path(gnomon.__file__).parent}/"

    def watched(real: Any) -> Any:
        def reading(self: Tensor, *given: Any, **named: Any) -> Any:
            frame = sys._getframe(1)
            while frame.f_back is not None and not frame.f_code.co_filename.startswith(package):
                frame = frame.f_back
            seen.append(frame.f_code.co_filename.removeprefix(package).partition("/")[0])
            return real(self, *given, **named)

        return reading

    before = {name: getattr(torch.Tensor, name) for name in READS}
    for name, real in before.items():
        setattr(torch.Tensor, name, watched(real))
    try:
        yield seen
    finally:
        for name, real in before.items():
            setattr(torch.Tensor, name, real)


# -- gradients ------------------------------------------------------------------------------------


def step_gradient(
    learner: Learner,
    groups: Sequence[TokenGroup],
    text: Sequence[TokenGroup] = (),
    *,
    tokens: int = 100_000,
    iteration: int = 0,
    step: Step | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of one optimizer step in micro-batches of ``tokens`` tokens.

    Groups that are not trained on count in the step's normalisers, as in the loop.
    """
    learner.bench.tokens_per_microbatch = tokens
    parameters = dict(learner.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    step = step or step_of(learner, groups, text, iteration)
    total = 0.0
    for part, loss_of in (
        ([g for g in groups if g.trained], learner.loss),
        (text, learner.text_loss),
    ):
        for batch in learner.bench.batches(part):
            loss = loss_of(batch, step).loss
            loss.backward()
            total += float(loss.detach())
    return total, {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Relative L2 distance of two gradients over all parameters."""
    assert one.keys() == other.keys()
    difference = sum(float((one[k] - other[k]).square().sum()) for k in one)
    size = sum(float(g.square().sum()) for g in one.values())
    return (difference / size) ** 0.5


# -- recipes --------------------------------------------------------------------------------------


def make_recipe(model: Path | str, output: Path, stages: Any, **more: Any) -> Recipe:
    listed = stages if isinstance(stages, list) else [stages]
    raw = {"name": "run", "model": str(model), "output": str(output), "max_length": 120}
    return parse_recipe(raw | {"stages": listed} | more)


def sft_stage(steps: int = 3, **more: Any) -> dict[str, Any]:
    data = {"path": "tunnel:demonstrations", "options": {"n": 24, "seed": 1}}
    train = {"steps": steps, "batch_size": 4, "lr": 1e-2, "checkpoint_every": 1}
    train |= more.pop("train", {})
    return {"name": "sft", "algorithm": "sft", "data": data, "train": train} | more
