"""Roles on shared and separate trunks, against plain transformers, PEFT and finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import zoo
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gnomon.errors import ModelError
from gnomon.models.heads import RewardNormaliser, ScalarHead
from gnomon.models.roles import LoraSettings, Role, Trunk

LORA = LoraSettings(rank=4, alpha=8)


def naive_hidden(model: nn.Module, row: list[int]) -> Tensor:
    return model.base_model(torch.tensor([row]), use_cache=False).last_hidden_state[0]


def roles_on(trunk: Trunk) -> dict[str, Role]:
    for seed, name in enumerate(("policy", "reward", "value")):
        trunk.add_adapter(name, LORA, seed=seed)
        zoo.shake(trunk.adapter_parameters(name), seed)
    head = ScalarHead(zoo.H)
    return {
        "policy": Role("policy", trunk, adapter="policy", trainable=True),
        "reference": Role("reference", trunk),
        "reward": Role("reward", trunk, adapter="reward", head=head),
        "value": Role("value", trunk, adapter="value", head=ScalarHead(zoo.H), trainable=True),
    }


def snapshot(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {k: p.detach().clone() for k, p in parameters.items()}


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_an_adapter_computes_what_plain_peft_computes(family: str) -> None:
    trunk = zoo.trunk(family)
    trunk.add_adapter("other", LORA, seed=3)
    trunk.add_adapter("policy", LORA, seed=4)
    own = trunk.adapter_parameters("policy")
    zoo.shake(own)
    targets = ["c_attn", "c_proj", "c_fc"] if family == "gpt2" else "all-linear"
    oracle = get_peft_model(
        zoo.model(family), LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    )
    state = {k: p for k, p in oracle.named_parameters() if "lora_" in k}
    assert len(state) == len(own)
    for key, parameter in state.items():
        name = key.removeprefix("base_model.model.").replace(".default.", ".")
        parameter.data.copy_(own[name])
    ids = torch.randint(3, zoo.V, (2, 9))
    with trunk.active("policy"):
        torch.testing.assert_close(trunk.model(ids).logits, oracle(ids).logits)
    with oracle.disable_adapter():
        assert torch.equal(trunk.model(ids).logits, oracle(ids).logits)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_reference_is_bit_equal_before_and_after_training_the_others(family: str) -> None:
    trunk, batch = zoo.trunk(family), zoo.batch()
    before_adapters = Role("reference", trunk).logprobs(batch).logprobs
    roles = roles_on(trunk)
    frozen = snapshot(trunk.adapter_parameters("reward"))
    reward = roles["reward"].scores(batch)
    trained = [*roles["policy"].parameters(), *roles["value"].parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    first = roles["policy"].logprobs(batch).logprobs.detach()
    for _ in range(2):
        loss = roles["policy"].logprobs(batch, entropy=True).logprobs.mean()
        roles["reference"].logprobs(batch)
        (loss + roles["value"].values(batch).square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.allclose(roles["policy"].logprobs(batch).logprobs, first)
    assert torch.equal(roles["reference"].logprobs(batch).logprobs, before_adapters)
    assert torch.equal(roles["reward"].scores(batch), reward)
    assert all(torch.equal(frozen[k], p) for k, p in trunk.adapter_parameters("reward").items())


def test_one_roles_gradient_reaches_its_own_parameters_only() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    roles = roles_on(trunk)
    out = roles["policy"].logprobs(batch).logprobs.sum()
    roles["reward"].scores(batch)
    roles["value"].values(batch)
    out.backward()
    mine = {id(p) for p in roles["policy"].parameters()}
    assert mine
    everything = [*trunk.model.parameters(), *roles["value"].head.parameters()]
    for parameter in everything:
        assert (parameter.grad is not None) == (id(parameter) in mine)


def test_gradient_of_an_adapter_against_finite_differences() -> None:
    trunk, batch = zoo.trunk("gpt2"), zoo.batch()  # Llama's norm rounds to float32
    trunk.model.double()
    trunk.add_adapter("policy", LORA)
    zoo.shake(trunk.adapter_parameters("policy"))
    role = Role("policy", trunk, adapter="policy", trainable=True)
    role.logprobs(batch, temperature=0.7).logprobs.mean().backward()
    for parameter in role.parameters()[:4]:
        at, eps = (1, 2), 1e-6
        original = parameter.data[at].item()
        values = []
        for sign in (1, -1):
            parameter.data[at] = original + sign * eps
            values.append(role.logprobs(batch, temperature=0.7).logprobs.mean().item())
        parameter.data[at] = original
        expected = (values[0] - values[1]) / (2 * eps)
        assert parameter.grad[at].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_switching_adapters_nests_restores_and_leaves_requires_grad_alone() -> None:
    trunk = zoo.trunk()
    roles = roles_on(trunk)
    flags = {n: p.requires_grad for n, p in trunk.model.named_parameters()}
    assert {n for n, on in flags.items() if on and "lora" not in n} == set()
    ids = torch.randint(3, zoo.V, (1, 7))
    plain = trunk.model(ids).logits
    with trunk.active("policy"):
        policy = trunk.model(ids).logits
        with trunk.active("reward"):
            assert not torch.allclose(trunk.model(ids).logits, policy)
            with trunk.active(None):
                assert torch.equal(trunk.model(ids).logits, plain)
        assert torch.equal(trunk.model(ids).logits, policy)
        assert flags == {n: p.requires_grad for n, p in trunk.model.named_parameters()}
    with pytest.raises(RuntimeError, match="on purpose"), trunk.active("value"):
        raise RuntimeError("on purpose")
    assert torch.equal(trunk.model(ids).logits, plain)
    assert flags == {n: p.requires_grad for n, p in trunk.model.named_parameters()}
    assert roles["policy"].parameters()
    assert roles["reference"].parameters() == roles["reward"].parameters() == []


def test_scores_and_values_are_read_where_they_belong() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    head = ScalarHead(zoo.H, bias=True)
    nn.init.constant_(head.bias, 0.3)
    role = Role("value", trunk, head=head)
    scores, values = [], []
    prompts = [5, 5, 2, 2, 2]
    for row, prompt in zip(zoo.rows(batch), prompts, strict=True):
        number = (naive_hidden(trunk.model, row) @ head.weight.T + head.bias).squeeze(-1)
        scores.append(number[-1])
        values.append(number[prompt - 1 : -1])
    torch.testing.assert_close(role.scores(batch), torch.stack(scores), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(role.values(batch), torch.cat(values), atol=1e-5, rtol=1e-5)
    # one token later is another number: reading there would let the value see the action
    late = (role.hidden(batch)[batch.target_index] @ head.weight.T + head.bias).squeeze(-1)
    assert not torch.allclose(role.values(batch), late, atol=1e-2)


def test_an_ensemble_head_and_given_hidden_states() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    role = Role("reward", trunk, head=ScalarHead(zoo.H, outputs=3))
    hidden = role.hidden(batch)
    assert role.scores(batch).shape == (5, 3)
    assert torch.equal(role.scores(batch, hidden=hidden), role.scores(batch))
    assert torch.equal(role.logprobs(batch, hidden=hidden).logprobs, role.logprobs(batch).logprobs)


def test_a_value_model_may_share_the_policys_adapter() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    trunk.add_adapter("policy", LORA)
    zoo.shake(trunk.adapter_parameters("policy"))
    policy = Role("policy", trunk, adapter="policy", trainable=True)
    value = Role("value", trunk, adapter="policy", head=ScalarHead(zoo.H), trainable=True)
    hidden = policy.hidden(batch)
    (
        policy.logprobs(batch, hidden=hidden).logprobs.sum()
        + value.values(batch, hidden=hidden).sum()
    ).backward()
    assert all(p.grad is not None for p in value.parameters())
    together = {**policy.named_parameters(), **value.named_parameters()}
    assert len(together) == len(policy.parameters()) + 1
    assert "value.head.weight" in together


def test_dropout_is_on_in_training_roles_only() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    trunk.add_adapter("policy", LoraSettings(rank=4, dropout=0.5))
    zoo.shake(trunk.adapter_parameters("policy"))
    policy = Role("policy", trunk, adapter="policy", trainable=True)
    scorer = Role("reward", trunk, adapter="policy", head=ScalarHead(zoo.H))
    still = policy.logprobs(batch).logprobs
    assert torch.equal(still, policy.logprobs(batch).logprobs)
    policy.train()
    scorer.train()
    assert not torch.equal(policy.logprobs(batch).logprobs, policy.logprobs(batch).logprobs)
    assert torch.equal(scorer.scores(batch), scorer.scores(batch))
    assert not scorer.scores(batch).requires_grad
    assert not trunk.model.training  # a rollout right after a training step has no dropout
    assert torch.equal(policy.eval().logprobs(batch).logprobs, still)


def test_a_model_that_chooses_kernels_by_its_mode_is_asked_to() -> None:
    """transformers replaces a layer's forward pass in ``train`` where a model has hub kernels."""
    trunk = zoo.trunk()
    asked: list[bool] = []

    def train(mode: bool = True) -> nn.Module:
        asked.append(mode)
        return nn.Module.train(trunk.model, mode)

    trunk.model.train = train  # type: ignore[method-assign]
    with trunk.mode(True):
        assert trunk.model.training
    assert asked == []  # it has none, so nothing else is done in its train
    trunk.model._use_kernels = True  # type: ignore[assignment]
    with trunk.mode(True):
        assert all(module.training for module in trunk.model.modules())
    assert asked == [True, False]
    assert not any(module.training for module in trunk.model.modules())


@pytest.mark.parametrize("training", [False, True])
def test_a_recomputed_layer_does_not_look_through_the_whole_model(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = zoo.trunk("llama", gradient_checkpointing=True)
    trunk.add_adapter("policy", LORA)
    role = Role("policy", trunk, adapter="policy", trainable=True).train(training)
    role.logprobs(zoo.batch()).logprobs.mean().backward()  # what is kept is found
    walks: list[int] = []
    modules = nn.Module.modules
    whole = {id(trunk.model), id(trunk.model.base_model)}

    def counted(self: nn.Module, *given: bool) -> Iterator[nn.Module]:
        walks.append(1) if id(self) in whole else None
        return modules(self, *given)

    monkeypatch.setattr(nn.Module, "modules", counted)
    role.logprobs(zoo.batch()).logprobs.mean().backward()
    assert walks == []
    list(trunk.model.modules())
    assert walks == [1]  # and the counter counts


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_checkpointed_gradients_equal_plain_ones_whatever_runs_in_between(
    family: str, dropout: float
) -> None:
    batch, grads, saved = zoo.batch(), [], []
    for checkpointing in (False, True):
        trunk = zoo.trunk(family, gradient_checkpointing=checkpointing)
        trunk.add_adapter("other", LORA, seed=9)
        zoo.shake(trunk.adapter_parameters("other"))
        trunk.add_adapter("policy", LoraSettings(rank=4, dropout=dropout), seed=2)
        zoo.shake(trunk.adapter_parameters("policy"))
        policy = Role("policy", trunk, adapter="policy", trainable=True).train(dropout > 0)
        other = Role("other", trunk, adapter="other")
        policy.logprobs(batch)  # the packed forward tries itself out on first use
        torch.manual_seed(0)
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = policy.logprobs(batch).logprobs.mean()
        other.logprobs(batch)
        loss.backward()
        saved.append(sum(sizes))
        grads.append({k: p.grad for k, p in policy.named_parameters().items()})
    for key, expected in grads[0].items():
        torch.testing.assert_close(grads[1][key], expected, atol=1e-6, rtol=1e-4)
    assert saved[1] < saved[0] / 2


def test_full_training_has_the_trunk_to_itself() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    policy = Role("policy", trunk, trainable=True)
    with pytest.raises(ModelError, match=r"'policy' trains all weights.*'reference'.*copy"):
        Role("reference", trunk)
    with pytest.raises(ModelError, match="trains all of its weights"):
        trunk.add_adapter("value", LORA)
    reference = Role("reference", trunk.copy())
    before = reference.logprobs(batch).logprobs
    assert torch.equal(before, policy.logprobs(batch).logprobs)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    policy.logprobs(batch).logprobs.mean().backward()
    optimizer.step()
    assert not torch.allclose(policy.logprobs(batch).logprobs, before)
    assert torch.equal(reference.logprobs(batch).logprobs, before)
    names = policy.named_parameters()
    assert all(n.startswith("policy.trunk.") for n in names)
    assert {id(p) for p in names.values()} == {id(p) for p in trunk.model.parameters()}


def test_a_second_full_role_is_refused_while_the_first_lives_and_allowed_after() -> None:
    trunk = zoo.trunk()
    reference = Role("reference", trunk)
    with pytest.raises(ModelError, match="trains all weights"):
        Role("policy", trunk, trainable=True)
    del reference
    assert Role("policy", trunk, trainable=True).parameters()


def test_adapters_start_as_the_identity_from_their_own_seed() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    plain = Role("reference", trunk).logprobs(batch).logprobs
    state = torch.get_rng_state()
    trunk.add_adapter("a", LORA, seed=1)
    trunk.add_adapter("b", LORA, seed=1)
    trunk.add_adapter("c", LORA, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (trunk.adapter_parameters(n) for n in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    zoo.shake(a)
    trunk.add_adapter("d", init_from="a")
    d = trunk.adapter_parameters("d")
    assert all(torch.equal(a[k], d[k]) for k in a)
    assert {id(p) for p in a.values()}.isdisjoint(id(p) for p in d.values())
    assert torch.equal(Role("x", trunk, adapter="b").logprobs(batch).logprobs, plain)


def test_an_adapter_on_a_bfloat16_trunk_is_float32() -> None:
    trunk = zoo.trunk()
    trunk.model.bfloat16()
    trunk.add_adapter("policy", LORA)
    assert {p.dtype for p in trunk.adapter_parameters("policy").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "lora", "init_from", "message"),
    [
        ("a.b", LORA, None, "cannot name an adapter"),
        ("taken", LORA, None, "has an adapter 'taken' already"),
        ("x", None, None, "needs LoRA settings"),
        ("x", LoraSettings(rank=0), None, "rank"),
        ("x", LoraSettings(targets=("q_prj",)), None, r"q_prj.*q_proj"),
        ("x", LoraSettings(targets="all"), None, "all-linear"),
        ("x", LoraSettings(rank=8, alpha=8), "taken", "rank 8, but taken has 4"),
        ("x", None, "nowhere", "adapter_config.json"),
    ],
)
def test_adapters_that_cannot_be_made(
    name: str, lora: LoraSettings | None, init_from: str | None, message: str
) -> None:
    trunk = zoo.trunk()
    trunk.add_adapter("taken", LORA)
    with pytest.raises(ModelError, match=message):
        trunk.add_adapter(name, lora, init_from=init_from)
    assert trunk.adapters == ("taken",)


def test_roles_that_cannot_be_made_or_asked() -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    with pytest.raises(ModelError, match="no adapter 'policy'"):
        Role("policy", trunk, adapter="policy")
    with pytest.raises(ModelError, match="width 7"):
        Role("value", trunk, head=ScalarHead(7))
    with pytest.raises(ModelError, match="no scalar head"):
        Role("policy", trunk).scores(batch)


def test_a_value_head_may_start_at_zero_and_computes_in_float32() -> None:
    head = ScalarHead(8, init_std=0.0, bias=True)
    assert torch.equal(head(torch.randn(3, 8)), torch.zeros(3, 1))
    out = ScalarHead(8)(torch.randn(2, 5, 8, dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    assert out.shape == (2, 5, 1)


def test_the_normaliser_by_hand() -> None:
    one = RewardNormaliser(mean=1.0, scale=2.0, length_coef=0.1)
    got = one.apply(torch.tensor([4.0, 3.0]), torch.tensor([10, 20]))
    torch.testing.assert_close(got, torch.tensor([1.0, 0.0]))
    two = RewardNormaliser(mean=(0.0, 1.0), scale=(1.0, 2.0))
    got = two.apply(torch.tensor([[4.0, 3.0]]), torch.tensor([10]))
    torch.testing.assert_close(got, torch.tensor([[4.0, 1.0]]))
    with pytest.raises(ValueError, match="above zero"):
        RewardNormaliser(scale=0.0)
