"""Where reference log-probs come from: the four ways, and the cache on disk."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from offline_zoo import (
    LORA,
    assert_same,
    given,
    labelled,
    make,
    model,
    move,
    padded_logprobs,
    pairs,
    shaken,
    step,
)

import tiny_world as tw
from gnomon.algorithms.base import trained_weights
from gnomon.errors import ConfigError, ModelError
from gnomon.training.reference_cache import ReferenceCache

BASE = model()
POLICY = shaken(BASE)


def shake_adapter(algorithm):
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained_weights(algorithm.roles["policy"]).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


# -- the four ways ---


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_with_lora_adapter_off_and_live_are_what_was_cached(name):
    groups = labelled() if name == "kto" else pairs()
    results = []
    for mode in ("cached", "adapter_off", "live"):
        role = None if mode == "cached" else "frozen"
        parts = given(groups, BASE, lora=LORA, reference=role)
        algorithm = make(name, parts, reference=mode)
        shake_adapter(algorithm)
        results.append(step(algorithm))
    assert results[0][0] != pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-3)
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        assert_same(gradient, results[0][1])


@pytest.mark.parametrize("settings", [{}, {"length_desensitise": 0.5}])
def test_a_live_copy_is_what_was_cached(settings):
    cached = make("dpo", given(pairs(), BASE), **settings)
    live = make("dpo", given(pairs(), BASE, reference="frozen"), reference="live", **settings)
    for algorithm in (cached, live):
        move(algorithm, POLICY)
    assert step(cached)[0] == pytest.approx(step(live)[0], rel=1e-5)
    assert_same(step(cached)[1], step(live)[1])


def test_only_a_second_model_when_asked():
    assert tw.role_names("dpo") == ("policy",)
    assert tw.role_names("dpo", reference="live") == ("policy", "reference")


def test_a_synced_reference_is_an_average_of_past_policies():
    parts = given(pairs(), BASE, reference="moving")
    algorithm = make("dpo", parts, reference="synced", sync_every=2, sync_alpha=0.25)
    move(algorithm, POLICY)
    start, policy = BASE.state_dict(), POLICY.state_dict()
    for iteration in range(4):
        algorithm.end_iteration(algorithm.experience(iteration), {})
        syncs = (iteration + 1) // 2
        for name, weight in trained_weights(algorithm.roles["reference"]).items():
            left = 0.75**syncs
            expected = left * start[name] + (1 - left) * policy[name]
            torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


def test_an_average_in_bfloat16_moves_as_one_in_float32_does():
    """Steps of 1/256 of a gap that bfloat16 rounds away; with a resume halfway."""
    base, policy = copy.deepcopy(BASE).bfloat16(), copy.deepcopy(POLICY).bfloat16()
    settings = {"reference": "synced", "sync_every": 1, "sync_alpha": 1 / 256}

    def made():
        parts = given(pairs(), base, reference="moving", iterations=200)
        algorithm = make("dpo", parts, **settings)
        move(algorithm, policy)
        return algorithm

    first, second = made(), made()
    experience = first.experience(0)
    for _ in range(60):
        first.end_iteration(experience, {})
    second.load_state_dict(first.state_dict())
    for _ in range(60):
        second.end_iteration(experience, {})
    start, end = base.state_dict(), policy.state_dict()
    left = (1 - 1 / 256) ** 120
    for name, weight in trained_weights(second.roles["reference"]).items():
        expected = left * start[name].float() + (1 - left) * end[name].float()
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight, expected.bfloat16(), rtol=2**-7, atol=1e-6)


def test_a_synced_lora_reference_becomes_the_policy():
    parts = given(pairs(), BASE, lora=LORA, reference="moving")
    algorithm = make("dpo", parts, reference="synced", sync_every=1, sync_alpha=1.0)
    shake_adapter(algorithm)
    before = step(algorithm)[0]
    algorithm.end_iteration(algorithm.experience(0), {})
    after = step(algorithm)[0]
    assert before != pytest.approx(after, abs=1e-4)
    assert after == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("role", "lora", "settings", "said"),
    [
        ("frozen", None, {"reference": "adapter_off"}, "needs LoRA"),
        (None, None, {"reference": "live"}, "needs a role"),
        ("moving", LORA, {"reference": "synced", "sync_every": 1}, "sync_alpha: 1"),
        ("moving", None, {"reference": "synced", "sync_every": 5}, "would never move"),
    ],
)
def test_settings_that_cannot_work_are_refused(role, lora, settings, said):
    with pytest.raises(ConfigError, match=said):
        make("dpo", given(pairs(), BASE, lora=lora, reference=role), **settings)


@pytest.mark.filterwarnings("ignore:.*cannot share prompts")
def test_a_broken_reference_is_refused():
    broken = shaken(BASE)
    with torch.no_grad():
        broken.get_input_embeddings().weight[pairs()[2].prompt_ids[1]] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        make("dpo", given(pairs(), broken))


# -- the cache ---


def cache(folder, model="base", encoder="e", dtype="float32"):
    return ReferenceCache(folder, model, encoder, dtype)


def counting(network=BASE):
    """A way to compute log-probs that counts the responses it was asked for."""
    asked = []

    def compute(groups):
        asked.append(sum(len(g.responses) for g in groups))
        with torch.no_grad():
            return torch.cat([x for g in groups for x in padded_logprobs(network, g)])

    return compute, asked


def test_one_pass_serves_all_runs_whatever_their_order(tmp_path):
    groups = pairs()
    compute, asked = counting()
    first = cache(tmp_path).fetch(groups, False, compute)
    later = cache(tmp_path)
    again = later.fetch(groups[::-1], False, compute)
    assert asked == [12]
    assert torch.equal(again.reshape(-1, 2).flip(0), first.reshape(-1, 2))
    assert (later.reused, later.computed) == (12, 0)
    expected = [x.sum().item() for g in groups for x in padded_logprobs(BASE, g)]
    assert first.tolist() == pytest.approx(expected, rel=1e-5)


def test_only_new_responses_are_computed(tmp_path):
    groups = pairs()
    compute, asked = counting()
    cache(tmp_path).fetch(groups[:4], False, compute)
    store = cache(tmp_path)
    store.fetch(groups, False, compute)
    assert asked == [8, 4]
    assert (store.reused, store.computed) == (8, 4)


def test_tokens_are_kept_where_a_method_needs_them(tmp_path):
    groups = pairs()
    compute, asked = counting()
    cache(tmp_path).fetch(groups, False, compute)
    tokens = cache(tmp_path).fetch(groups, True, compute)
    assert asked == [12, 12]  # sums alone do not serve
    assert torch.equal(tokens, compute(groups))
    assert torch.equal(cache(tmp_path).fetch(groups, True, compute), tokens)
    cache(tmp_path).fetch(groups, False, compute)  # but tokens serve for sums
    assert asked == [12, 12, 12]


@pytest.mark.parametrize("part", ["model", "encoder", "dtype"])
def test_another_models_numbers_are_named_counted_and_never_used(tmp_path, part):
    groups = pairs()
    compute, _ = counting()
    cache(tmp_path).fetch(groups, False, compute)
    other, asked = counting(POLICY)
    store = cache(tmp_path, **{part: "another"})
    found = store.fetch(groups, False, other)
    assert asked == [12]
    assert store.summary() == {
        "reused": 0,
        "computed": 12,
        "refused": {f"made with another {part}": 12},
    }
    expected = [x.sum().item() for g in groups for x in padded_logprobs(POLICY, g)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_shard_moved_under_another_models_name_is_refused(tmp_path):
    compute, asked = counting()
    mine, theirs = cache(tmp_path), cache(tmp_path, model="another")
    mine.fetch(pairs(), False, compute)
    shutil.copytree(mine.home, theirs.home)
    theirs.fetch(pairs(), False, compute)
    assert asked == [12, 12]
    assert theirs.refused["made with another model"] >= 12


@pytest.mark.parametrize("change", ["prompt", "response", "mask"])
def test_other_tokens_are_other_responses(tmp_path, change):
    (group, *_) = pairs(1)
    compute, asked = counting()
    cache(tmp_path).fetch([group], False, compute)
    first, second = group.responses
    changed = {
        "prompt": replace(group, prompt_ids=[*group.prompt_ids[:-1], 39]),
        "response": replace(group, responses=(replace(first, ids=[39, *first.ids[1:]]), second)),
        "mask": replace(group, responses=(replace(first, mask=[False, *first.mask[1:]]), second)),
    }[change]
    cache(tmp_path).fetch([changed], False, compute)
    assert asked == [2, 2]


@pytest.mark.parametrize("damage", ["values", "about", "missing"])
def test_a_damaged_shard_is_computed_anew_and_mended(tmp_path, damage):
    compute, asked = counting()
    store = cache(tmp_path)
    store.fetch(pairs(), False, compute)
    (shard,) = store.home.iterdir()
    if damage == "values":
        data = bytearray((shard / "logprobs.safetensors").read_bytes())
        data[-1] ^= 1
        (shard / "logprobs.safetensors").write_bytes(data)
    elif damage == "about":
        (shard / "about.json").write_text("{")
    else:
        (shard / "logprobs.safetensors").unlink()
    mended = cache(tmp_path)
    mended.fetch(pairs(), False, compute)
    assert asked == [12, 12]
    assert mended.refused == {"damaged file": 1}
    cache(tmp_path).fetch(pairs(), False, compute)
    assert asked == [12, 12]
    assert json.loads((shard / "about.json").read_text())["model"] == "base"


def test_the_cached_reference_is_the_start_model_after_a_resume(tmp_path):
    """A stage builds its algorithm before the checkpoint is read, and the cache knows the model."""
    first = make("dpo", given(pairs(), BASE, reference_store=cache(tmp_path)))
    move(first, POLICY)
    loss = step(first)[0]
    store = cache(tmp_path)
    second = make("dpo", given(pairs(), BASE, reference_store=store))
    move(second, POLICY)
    assert step(second)[0] == loss
    assert (store.reused, store.computed) == (12, 0)
