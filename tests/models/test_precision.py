"""Mixed precision against float32, and what must stay float32 in it."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import Tensor, nn

from gnomon.data.batch import Batch, pack
from gnomon.errors import ConfigError, ModelError
from gnomon.models import precision as precisions
from gnomon.models.adapters import narrow_matrices_of
from gnomon.models.heads import ScalarHead
from gnomon.models.precision import (
    Float32Linear,
    NarrowLinear,
    Precision,
    narrow_copies,
    pick_precision,
)
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.models.save import save_policy
from gnomon.records import TokenGroup, TokenResponse
from gnomon.training.optim import clip_grads, grad_norm, make_optimizer

MIXED, CPU = Precision("mixed"), torch.device("cpu")
FAMILIES = ("llama", "qwen2-tied", "gpt2")


def role(name: str, family: str = "llama", lora: bool = False, **options: object) -> Role:
    """A policy whose start weights are bfloat16 numbers, as published ones are."""
    precision = Precision(name)
    start = zoo.model(family, initializer_range=0.1).to(torch.bfloat16)
    start.to(getattr(torch, precision.frozen if lora else precision.trained))
    trunk = Trunk(start, zoo.tokenizer(), precision=precision, **options)
    if lora:
        trunk.add_adapter("policy", LoraSettings(rank=4, alpha=8), seed=1)
        zoo.shake(trunk.adapter_parameters("policy"), size=0.05)
    head = ScalarHead(zoo.H)
    return Role("policy", trunk, adapter="policy" if lora else None, head=head, trainable=True)


def long_batch() -> Batch:
    """160 tokens of responses: sums over few tokens are mostly rounding."""
    draw = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, zoo.V, (42,), generator=draw).tolist() for _ in range(4)]
    return pack(
        [TokenGroup(str(i), row[:2], (TokenResponse(row[2:], [True] * 40),))
         for i, row in enumerate(ids)]
    )  # fmt: skip


def moved(policy: Role, steps: int = 50) -> Tensor:
    """How far ``steps`` of AdamW at 1e-6 move everything that is trained, end to end."""
    weights = policy.named_parameters()
    before = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = make_optimizer(list(weights.items()), lr=1e-6)
    batch = long_batch()
    for _ in range(steps):
        (-policy.logprobs(batch).logprobs.mean()).backward()
        clip_grads(policy.parameters(), float(grad_norm(policy.parameters())), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([(p.detach().float() - before[n].float()).flatten()
                      for n, p in weights.items()])  # fmt: skip


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_fifty_small_steps_arrive_where_float32_takes_them(lora: bool) -> None:
    exact = moved(role("float32", lora=lora))
    assert cosine(moved(role("mixed", lora=lora)), exact) >= 0.99
    if not lora:  # the test can fail: without masters nearly all of the step is rounded away
        lost = moved(role("bfloat16"))
        assert cosine(lost, exact) < 0.5
        assert float(lost @ exact / (exact @ exact)) < 0.05


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_what_is_summed_or_scored_stays_float32(family: str, lora: bool) -> None:
    policy, batch = role("mixed", family, lora), zoo.batch()
    seen: list[torch.dtype] = []
    layer = next(m for n, m in policy.trunk.model.named_modules() if n.endswith("mlp"))
    layer.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    out = policy.logprobs(batch, entropy=True)
    scores, values = policy.scores(batch), policy.values(batch)
    assert seen[0] == torch.bfloat16  # the matrices are not
    assert policy.trunk.packed.shares_prefix
    for found in (out.logprobs, out.entropy, scores, values, out.logprobs.mean()):
        assert found.dtype == torch.float32
    (out.logprobs.mean() + out.entropy.mean() + scores.mean() + values.mean()).backward()
    for name, parameter in policy.named_parameters().items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is None or parameter.grad.dtype == torch.float32, name
    assert not torch.is_autocast_enabled("cpu")


def test_recomputed_layers_give_the_same_gradients() -> None:
    kept, again = role("mixed"), role("mixed", gradient_checkpointing=True)
    assert torch.equal(moved(kept, 2), moved(again, 2))


def test_a_frozen_copy_computes_the_same_bits_from_less() -> None:
    policy, batch = role("mixed"), zoo.batch()
    reference = Role("reference", policy.trunk.frozen_copy())
    sizes = [sum(p.numel() * p.element_size() for p in r.trunk.model.parameters())
             for r in (policy, reference)]  # fmt: skip
    assert sizes[1] < 0.65 * sizes[0]
    assert torch.equal(reference.logprobs(batch).logprobs, policy.logprobs(batch).logprobs.detach())
    plain = role("float32").trunk
    assert {p.dtype for p in plain.frozen_copy().model.parameters()} == {torch.float32}


def test_a_copy_without_gradients_does_not_stay_for_the_training_pass() -> None:
    """Autocast keeps narrow weights, and one made under no_grad has no gradient."""
    policy, batch = role("mixed"), zoo.batch()
    with policy.trunk.active(None), torch.no_grad():
        policy.trunk.model(batch.input_ids[None])
    policy.logprobs(batch).logprobs.mean().backward()
    alone = role("mixed")
    alone.logprobs(batch).logprobs.mean().backward()
    for (name, a), b in zip(policy.named_parameters().items(), alone.parameters(), strict=True):
        if "head." not in name:
            assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_head_computes_in_float32_where_that_is_asked_for(lora: bool) -> None:
    plain, batch = role("mixed", lora=lora), zoo.batch()
    twin = copy.deepcopy(plain.trunk.model)
    sharp = Role(
        "policy", Trunk(twin, zoo.tokenizer(), precision=Precision("mixed", float32_head=True))
    )
    hidden = plain.hidden(batch).detach()
    weight = plain.trunk.model.lm_head.weight.detach()
    exact = (hidden.double()[batch.source_index] @ weight.double().T).log_softmax(-1)
    exact = exact.gather(1, batch.targets[:, None])[:, 0]
    errors = [
        float((r.logprobs(batch, hidden=hidden).logprobs.detach() - exact).abs().max())
        for r in (plain, sharp)
    ]
    assert errors[1] < 1e-5 < 1e-3 < errors[0]
    with torch.autocast("cpu", torch.bfloat16):  # whoever calls the model gets it, a sampler too
        assert twin(batch.input_ids[None]).logits.dtype == torch.float32


def test_the_heads_gradient_is_that_of_its_forward_pass_even_under_autocast() -> None:
    policy, batch = role("float32"), zoo.batch()
    grads = []
    for inside in (False, True):
        policy.trunk.model.zero_grad()
        loss = policy.logprobs(batch).logprobs.mean()
        weight = policy.trunk.model.lm_head.weight
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            grads.append(torch.autograd.grad(loss, weight)[0])
    assert torch.equal(*grads)


def test_a_head_that_is_no_matrix_cannot_be_made_float32() -> None:
    model = zoo.model("llama")
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="float32_head"):
        Trunk(model, zoo.tokenizer(), precision=Precision("mixed", float32_head=True))
    assert type(zoo.model("llama").lm_head) is not Float32Linear


def test_an_adapter_multiplies_in_the_type_of_its_trunk_and_keeps_its_own() -> None:
    policy, batch = role("mixed", lora=True), zoo.batch()
    matrices = narrow_matrices_of(policy.trunk.model, "policy")
    assert len(matrices) == len(policy.trunk.adapter_parameters("policy"))
    kinds = []
    hooks = [
        m.register_forward_hook(lambda m, given, out: kinds.append((given[0].dtype, out.dtype)))
        for m in matrices
    ]
    policy.logprobs(batch).logprobs.mean().backward()
    assert set(kinds) == {(torch.bfloat16, torch.bfloat16)}
    for hook in hooks:
        hook.remove()
    for matrix in matrices:
        assert matrix.weight.dtype == torch.float32
        assert matrix.weight.grad is not None
        assert matrix.weight.grad.dtype == torch.float32
    exact = role("float32", lora=True)
    assert narrow_matrices_of(exact.trunk.model, "policy") == []


def test_narrow_copies_are_those_of_the_moment_and_gradients_pass_them_by() -> None:
    policy, batch = role("mixed", lora=True), zoo.batch()
    matrices = narrow_matrices_of(policy.trunk.model, "policy")
    draw = torch.Generator().manual_seed(1)
    for matrix in matrices:
        matrix.weight.data.normal_(std=0.1, generator=draw)
    with torch.no_grad():
        fresh = policy.logprobs(batch).logprobs
        with policy.trunk.active("policy"):
            assert all(matrix.narrow is not None for matrix in matrices)
            assert torch.equal(policy.logprobs(batch).logprobs, fresh)
            for matrix in matrices:
                matrix.weight.data.zero_()  # against the rule, to see that copies are read
            assert torch.equal(policy.logprobs(batch).logprobs, fresh)
            with torch.enable_grad():
                policy.logprobs(batch).logprobs.mean().backward()
            assert all(matrix.weight.grad is not None for matrix in matrices)
        assert all(matrix.narrow is None for matrix in matrices)
        assert not torch.equal(policy.logprobs(batch).logprobs, fresh)


def test_a_narrow_copy_serves_inputs_of_its_own_type_alone() -> None:
    matrix = NarrowLinear(6, 4, bias=False)
    x = torch.randn(3, 6)
    with torch.no_grad(), narrow_copies([matrix], torch.bfloat16):
        assert matrix(x).dtype == torch.float32
        assert torch.equal(matrix(x), nn.functional.linear(x, matrix.weight))
        assert matrix(x.bfloat16()).dtype == torch.bfloat16


def test_a_copy_of_a_trunk_that_is_sampled_from_has_its_own_adapter() -> None:
    policy, batch = role("mixed", lora=True), zoo.batch()
    with policy.trunk.active("policy"):
        twin = Role("policy", policy.trunk.copy(), adapter="policy", trainable=True)
    with torch.no_grad():
        before = twin.logprobs(batch).logprobs
        for parameter in twin.trunk.adapter_parameters("policy").values():
            parameter.add_(0.1)
        with twin.trunk.active("policy"):
            assert not torch.equal(twin.logprobs(batch).logprobs, before)
        assert not torch.equal(twin.logprobs(batch).logprobs, before)


def test_saved_models_have_the_type_they_were_trained_in(tmp_path) -> None:
    for lora, kind in ((False, torch.float32), (True, torch.bfloat16)):
        policy = role("mixed", lora=lora)
        save_policy(tmp_path / "model", policy)
        state = load_file(tmp_path / "model" / "model.safetensors")
        assert {t.dtype for t in state.values()} == {kind}
        assert policy.trunk.compute == torch.bfloat16


# -- what a device has ----------------------------------------------------------------------------


def test_auto_is_float32_on_a_processor_and_mixed_on_a_gpu_that_has_the_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda")
    assert pick_precision("auto", CPU).name == "float32"
    for has, name in ((True, "mixed"), (False, "float32")):
        monkeypatch.setattr(precisions, "has_bfloat16", lambda device, has=has: has)
        assert pick_precision("auto", gpu).name == name
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for asked in ("mixed", "bfloat16"):
        with pytest.raises(ConfigError, match=rf"{asked}, but Tesla T4 has no bfloat16 units"):
            pick_precision(asked, gpu)
    assert pick_precision("mixed", CPU).name == "mixed"  # slower, and the same
