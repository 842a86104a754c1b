"""Chunked log-probs and entropies against log_softmax of the whole logits."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from zoo import logprobs

from gnomon.data.batch import pack
from gnomon.errors import ModelError
from gnomon.models.logprobs import OutputHead, token_logprobs
from gnomon.models.packed import PackedForward
from gnomon.records import TokenGroup, TokenResponse

V, H = 37, 16


def batch_of(seed: int = 0) -> tuple[object, int]:
    draw = torch.Generator().manual_seed(seed)
    groups = []
    for i, (p, ts) in enumerate([(3, [4, 2, 5]), (1, [6]), (4, [1, 3])]):
        responses = tuple(
            TokenResponse(
                torch.randint(V, (t,), generator=draw).tolist(), [j % 3 != 1 for j in range(t)]
            )
            for t in ts
        )
        groups.append(TokenGroup(str(i), [1] * p, responses))
    batch = pack(groups)
    return batch, batch.num_tokens


def reference(
    hidden: Tensor, head: OutputHead, batch: object, temperature: float
) -> tuple[Tensor, Tensor]:
    z = head.module(hidden) * head.scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    logp = (z / temperature).log_softmax(-1)[batch.source_index]
    return logp.gather(1, batch.targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("chunk", [None, 1, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(chunk: int | None, softcap: float | None, bias: bool) -> None:
    batch, N = batch_of()
    hidden = torch.randn(N, H, dtype=torch.float64, requires_grad=True)
    linear = nn.Linear(H, V, bias=bias).double()
    head = OutputHead(linear, scale=0.7, softcap=softcap)
    inputs = [hidden, *linear.parameters()]
    out = token_logprobs(hidden, head, batch, temperature=0.6, entropy=True, chunk_tokens=chunk)
    want, want_entropy = reference(hidden, head, batch, 0.6)
    torch.testing.assert_close(out.logprobs, want)
    torch.testing.assert_close(out.entropy, want_entropy)
    a, b = torch.randn_like(want), torch.randn_like(want)
    found = torch.autograd.grad((a * out.logprobs + b * out.entropy).sum(), inputs)
    expected = torch.autograd.grad((a * want + b * want_entropy).sum(), inputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("linear", [True, False])
def test_an_entropy_that_is_only_logged_has_no_gradient(chunk: int | None, linear: bool) -> None:
    batch, N = batch_of()
    hidden = torch.randn(N, H, requires_grad=True)
    module = nn.Linear(H, V)
    head = OutputHead(module if linear else nn.Sequential(module))
    settings = {"entropy": True, "chunk_tokens": chunk}
    logged = token_logprobs(hidden, head, batch, entropy_grad=False, **settings)
    trained = token_logprobs(hidden, head, batch, **settings)
    assert not logged.entropy.requires_grad
    assert trained.entropy.requires_grad
    torch.testing.assert_close(logged.entropy, trained.entropy)
    weight = torch.randn_like(trained.logprobs)
    one, other = (
        torch.autograd.grad((weight * out.logprobs).sum(), [hidden, module.weight])
        for out in (logged, trained)
    )
    torch.testing.assert_close(one, other)


def test_backward_twice_over_a_kept_chunk() -> None:
    batch, N = batch_of()
    hidden = torch.randn(N, H, requires_grad=True)
    head = OutputHead(nn.Linear(H, V))
    out = token_logprobs(hidden, head, batch, entropy=True)
    loss = out.logprobs.sum() + out.entropy.sum()
    first = torch.autograd.grad(loss, hidden, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, hidden), first)


def test_frozen_head_gets_no_gradient() -> None:
    batch, N = batch_of()
    linear = nn.Linear(H, V).requires_grad_(False)
    hidden = torch.randn(N, H, requires_grad=True)
    token_logprobs(hidden, OutputHead(linear), batch, chunk_tokens=3).logprobs.sum().backward()
    assert linear.weight.grad is None
    assert hidden.grad is not None


def test_other_head_modules() -> None:
    batch, N = batch_of()
    linear = nn.Linear(H, V)
    hidden = torch.randn(N, H, requires_grad=True)
    plain, wrapped = OutputHead(linear, softcap=2.0), OutputHead(nn.Sequential(linear), softcap=2.0)
    results = []
    for head in (plain, wrapped):
        out = token_logprobs(hidden, head, batch, temperature=0.9, entropy=True, chunk_tokens=5)
        loss = out.logprobs.sum() + out.entropy.square().sum()
        results.append(
            [out.logprobs, out.entropy, *torch.autograd.grad(loss, [hidden, *linear.parameters()])]
        )
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_autocast_agrees_with_its_own_backward() -> None:
    batch, N = batch_of()
    linear = nn.Linear(H, V)
    hidden = torch.randn(N, H, requires_grad=True)
    exact = token_logprobs(hidden, OutputHead(linear), batch).logprobs
    exact_grad = torch.autograd.grad(exact.sum(), hidden)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = token_logprobs(hidden, OutputHead(linear), batch, chunk_tokens=4).logprobs
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    grad = torch.autograd.grad(rough.sum(), hidden)[0]
    assert (grad - exact_grad).norm() < 0.02 * exact_grad.norm()


def test_peak_memory_is_a_few_chunks() -> None:
    """No tensor of the size of all logits is made, forward or backward."""
    batch, N = batch_of()
    vocabulary = 5000
    linear = nn.Linear(H, vocabulary)
    hidden = torch.randn(N, H, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                weightlike = isinstance(t, Tensor) and {*t.shape} == {*linear.weight.shape}
                if isinstance(t, Tensor) and not weightlike:
                    largest = max(largest, t.numel())
            return out

    with Watch():
        out = token_logprobs(hidden, OutputHead(linear), batch, entropy=True, chunk_tokens=4)
        (out.logprobs + out.entropy).sum().backward()
    assert largest == 4 * vocabulary < batch.targets.numel() * vocabulary


LLAMA = {
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}


def full_logprobs(model: nn.Module, batch: object) -> tuple[Tensor, Tensor]:
    """The model's own logits, response by response."""
    values, entropies = [], []
    for segment in batch.segments:
        prompt = batch.input_ids[slice(*segment.prompt)]
        for r in segment.responses:
            ids = torch.cat([prompt, batch.input_ids[slice(*r)]])
            logp = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            values.append(logp.gather(1, ids[len(prompt) :, None])[:, 0])
            entropies.append(-(logp.exp() * logp).sum(-1))
    return torch.cat(values), torch.cat(entropies)


@pytest.mark.parametrize(
    "config",
    [
        tf.LlamaConfig(**LLAMA, tie_word_embeddings=True),
        tf.CohereConfig(**LLAMA, logit_scale=0.3),
        tf.GraniteConfig(**LLAMA, logits_scaling=3.0),
        tf.Gemma2Config(**LLAMA, head_dim=8, final_logit_softcapping=1.5),
    ],
    ids=lambda c: c.model_type,
)
def test_logit_scaling_of_families(config: tf.PreTrainedConfig) -> None:
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    batch, _ = batch_of()
    out = logprobs(PackedForward(model), batch, entropy=True, chunk_tokens=5)
    values, entropies = full_logprobs(model, batch)
    torch.testing.assert_close(out.logprobs, values, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.entropy, entropies, atol=1e-4, rtol=0)
    parameters = list(model.parameters())
    found = torch.autograd.grad((out.logprobs + 0.3 * out.entropy).sum(), parameters)
    expected = torch.autograd.grad((values + 0.3 * entropies).sum(), parameters)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_lora_on_the_head() -> None:
    base = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**LLAMA, tie_word_embeddings=False))
    model = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    ).eval()
    batch, _ = batch_of()
    found = logprobs(PackedForward(model), batch, chunk_tokens=4).logprobs
    values, _ = full_logprobs(model, batch)
    torch.testing.assert_close(found, values, atol=1e-4, rtol=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), trained),
        torch.autograd.grad(values.sum(), trained),
        atol=1e-4,
        rtol=1e-3,
    )


def test_a_head_it_does_not_know_is_refused() -> None:
    """Logits that are not scale * softcap(W h) must not give wrong log-probs silently."""

    class Odd(tf.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 1.5
            return out

    with pytest.raises(ModelError, match="logits"):
        OutputHead.of(Odd(tf.LlamaConfig(**LLAMA)))


def test_errors() -> None:
    batch, N = batch_of()
    with pytest.raises(ModelError, match="no language-model head"):
        OutputHead.of(tf.LlamaModel(tf.LlamaConfig(**LLAMA)))
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(torch.zeros(N, H), OutputHead(nn.Linear(H, V)), batch, temperature=0.0)
