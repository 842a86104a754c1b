"""On-policy distillation: gradients written again on single rows, a teacher behind a server, what
is refused, and a student that learns its teacher's ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_zoo import TEACHER, TeacherServer, make, row_logprobs
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.on_policy_settings import DistillSettings
from gnomon.errors import ConfigError, EngineError
from gnomon.losses.distill import generalised_jsd
from gnomon.models.divergence import token_divergence
from gnomon.models.remote import RemoteModel
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress


def groups_of(learner: Learner) -> list[TokenGroup]:
    """The first iteration's groups."""
    (minibatch,) = learner.experience(0).minibatches
    return list(minibatch.groups)


def logits(role: Role, group: TokenGroup, ids: Sequence[int]) -> Tensor:
    """[T, V] that predict a response's tokens, by transformers' own forward pass."""
    with role.trunk.active(role.adapter):
        row = torch.tensor([[*group.prompt_ids, *ids]])
        return role.trunk.model(input_ids=row).logits[0, len(group.prompt_ids) - 1 : -1]


def naive(learner: Learner, groups: list[TokenGroup], beta: float | None, temperature: float):
    """The mean over all tokens, one row after the other: whole distributions, or (None) the
    sampled token's log-ratio times its ratio to itself."""
    student, teacher = learner.roles["policy"], learner.roles["teacher"]
    terms = []
    for group in groups:
        for response in group.responses:
            s, t = (
                (logits(role, group, response.ids) / temperature).softmax(-1)
                for role in (student, teacher)
            )
            t = t.detach()
            if beta is None:
                at = torch.tensor(response.ids)[:, None]
                own, theirs = s.gather(1, at)[:, 0], t.gather(1, at)[:, 0]
                gap = (own / theirs).log().detach()
                terms.append(gap * own / own.detach())
            elif beta == 1.0:
                terms.append((s * (s / t).log()).sum(-1))
            else:
                m = beta * t + (1 - beta) * s
                terms.append((beta * t * (t / m).log() + (1 - beta) * s * (s / m).log()).sum(-1))
    loss = torch.cat(terms).mean()
    parameters = dict(learner.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return float(loss.detach()), {
        n: g for n, g in zip(parameters, grads, strict=True) if g is not None
    }


HOW: list[tuple[dict[str, Any], float | None]] = [
    ({"loss": "full"}, 1.0),
    ({"loss": "full", "jsd_beta": 0.3}, 0.3),
    ({"loss": "sampled"}, None),
]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(("settings", "beta"), HOW)
def test_loss_and_gradient_are_those_of_single_rows(
    settings: dict[str, Any], beta: float | None, lora: bool
) -> None:
    learner = make(lora=lora, temperature=0.8, **settings)
    groups = groups_of(learner)
    loss, gradient = tw.step_gradient(learner, groups)
    for tokens in (100_000, 30):
        again, cut = tw.step_gradient(learner, groups, tokens=tokens)
        assert again == pytest.approx(loss, rel=1e-4)
        assert tw.distance(gradient, cut) < 1e-4
    expected, ours = naive(learner, groups, beta, 0.8)
    assert loss == pytest.approx(expected, rel=1e-3)
    assert tw.distance(ours, gradient) < 2e-3
    _, wrong = naive(learner, groups, beta, 1.0)  # the temperature matters
    assert tw.distance(wrong, gradient) > 1e-2


def test_chunks_of_any_size_give_the_same_divergence_and_gradient() -> None:
    learner = make(loss="full")
    (batch,) = learner.bench.batches(groups_of(learner))
    found = []
    for chunk in (1, 3, 1000):
        out = token_divergence(
            learner.roles["policy"],
            learner.roles["teacher"],
            batch,
            lambda s, t: generalised_jsd(s, t, 0.5),
            chunk_tokens=chunk,
        )
        grads = torch.autograd.grad(out.values.sum(), learner.roles["policy"].parameters())
        found.append((out.values.detach(), torch.cat([g.flatten() for g in grads])))
    for values, gradient in found[:2]:
        torch.testing.assert_close(values, found[2][0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, found[2][1], rtol=1e-3, atol=1e-5)


def test_a_students_samples_carry_no_reward() -> None:
    learner = make(loss="sampled")
    rows = tw.sampled(learner).rollouts(0)
    assert all(s.value is None and s.error is None for r in rows for s in r.scores)
    assert all(r.judgements == [] for r in rows)
    metrics = learner.experience(0).metrics
    assert "reward" not in metrics
    assert metrics["reward_errors"] == 0
    assert metrics["teacher_kl"] > 0.1


def distance(learner: Learner) -> float:
    """The mean reverse KL of whole distributions (nats per token) on fresh samples."""
    found = []
    for batch in learner.bench.batches(groups_of(learner)):
        out = token_divergence(
            learner.roles["policy"],
            learner.roles["teacher"],
            batch,
            lambda s, t: generalised_jsd(s, t, 1.0),
        )
        found.append(out.values.detach())
    return float(torch.cat(found).mean())


@pytest.mark.parametrize(("loss", "samples", "left"), [("full", 2, 0.5), ("sampled", 16, 0.9)])
def test_the_student_comes_closer_to_its_teacher(
    loss: str, samples: int, left: float, tmp_path: Path
) -> None:
    learner = make(loss=loss, iterations=16, samples=samples)
    before = distance(learner)
    options = LoopOptions(16, 3e-3, schedule="constant", warmup=0, checkpoint_every=99, seed=3)
    Loop(learner, options, tmp_path, Progress("test", 16, False)).run()
    assert distance(learner) < left * before


# -- a teacher behind a server ---------------------------------------------------------------------


@pytest.mark.parametrize("style", ["vllm", "echo", "strict"])
def test_a_served_teacher_says_what_a_loaded_one_does(style: str) -> None:
    local = make(loss="sampled")
    groups = groups_of(local)
    with TeacherServer(tw.tiny_model(TEACHER), style).running() as url:
        served = groups_of(make(url=url))
    for one, other in zip(groups, served, strict=True):
        for a, b in zip(one.responses, other.responses, strict=True):
            assert list(a.ids) == list(b.ids)
            torch.testing.assert_close(
                a.token["advantages"], b.token["advantages"], rtol=1e-3, atol=1e-4
            )


def test_the_server_is_asked_by_tokens_and_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "secret")
    server = TeacherServer(tw.tiny_model(TEACHER), failures=[503, 429])
    group = TokenGroup("g", [5, 9], tuple(tw.Draw(1).response(n) for n in (3, 4)))
    pauses: list[float] = []
    with server.running() as url:
        remote = RemoteModel("big", url, tw.tokenizer(), "TEACHER_KEY", sleep=pauses.append)
        found = remote.logprobs([group])
    expected = [
        value
        for r in group.responses
        for value in row_logprobs(server.model, [*group.prompt_ids, *r.ids])[2:]
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert pauses == [1.0, 5.0]
    assert server.keys == {"Bearer secret"}
    assert {b["model"] for b in server.asked} == {"big"}
    assert server.asked[0]["prompt"] == [5, 9, *group.responses[0].ids]


def remote_error(kind: type[Exception], said: str, **server: Any) -> None:
    group = TokenGroup("g", [5, 9], (tw.Draw(1).response(3),))
    with TeacherServer(tw.tiny_model(TEACHER), **server).running() as url:
        remote = RemoteModel("big", url, tw.tokenizer(), sleep=lambda seconds: None)
        with pytest.raises(kind, match=said):
            remote.logprobs([group])


def test_what_a_server_does_wrong_is_said() -> None:
    remote_error(ConfigError, "another tokenizer than the policy", reads=lambda token: "zzz")
    remote_error(ConfigError, "gives no log-probs of a text", style="none")
    remote_error(ConfigError, "answered 404", failures=[404])
    remote_error(ConfigError, "answered 400", failures=[400, 400])
    remote_error(EngineError, "answered 500.*resume with --resume", failures=[500] * 4)


def test_an_absent_server_or_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    group = TokenGroup("g", [5], (tw.Draw(1).response(2),))
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(ConfigError, match="TEACHER_KEY is not set"):
        RemoteModel("big", "http://x/v1", tw.tokenizer(), "TEACHER_KEY")
    with pytest.raises(ConfigError, match="has to begin with http"):
        RemoteModel("big", "host:80", tw.tokenizer())
    gone = RemoteModel("big", "http://127.0.0.1:9/v1", tw.tokenizer(), sleep=lambda seconds: None)
    with pytest.raises(EngineError, match="did not answer"):
        gone.logprobs([group])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "http://x/v1", "loss": "full"}, "whole distributions"),
        ({"timeout_s": 3.0}, "only for a teacher behind a url"),
        ({"clip_eps": 0.1}, "no effect with loss full"),
        ({"loss": "sampled", "jsd_beta": 0.5}, "no effect with loss sampled"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DistillSettings(teacher="t", **given)
