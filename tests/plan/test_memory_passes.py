"""The largest moment of a training pass by formula, against bytes counted on fake tensors.

Real widths and vocabularies, as on a GPU: nothing is computed, so that a model of any size fits.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import varlen_cpu  # noqa: F401  (torch's kernels, for a CPU)
from gnomon.data.batch import Batch, pack
from gnomon.models import costs, logprobs
from gnomon.models.packed import PackedForward, plan_of
from gnomon.models.precision import Precision
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.plan.job import Job
from gnomon.plan.memory import memory
from gnomon.plan.shapes import shape_of_config
from gnomon.records import TokenGroup, TokenResponse
from gnomon.tasks.tunnel.tokenizer import build_tokenizer

GPU = 80e9


class Peak(TorchDispatchMode):
    """Bytes of the tensors that are alive, without those of a model, and the most there were."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        known = [*model.parameters(), *model.buffers()]
        self.alive = {x.untyped_storage()._cdata for x in known}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self.alive:
                storage = x.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.alive.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def config(tied: bool) -> tf.Qwen3Config:
    """Two layers of Qwen3-0.6B."""
    return tf.Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=2,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied,
    )  # fmt: skip


def job(method: str, groups: tuple[int, ...], tied: bool = True, **more: Any) -> Job:
    G, K, P, T = groups
    shape = shape_of_config(config(tied), "qwen3")
    return Job(method, shape, G, K, P, T, P, T, 10**6, device_bytes=GPU, **more)


def batch(asked: Job) -> Batch:
    T = asked.response_tokens
    answers = tuple(TokenResponse([1] * T, [True] * T) for _ in range(asked.samples))
    prompt = [1] * asked.prompt_tokens
    packed = pack([TokenGroup(str(i), prompt, answers) for i in range(asked.prompts)])
    plan = plan_of(packed)
    plan.masked, plan.varlen  # noqa: B018 - laid out before tensors lose their numbers
    return packed


def policy(asked: Job) -> Role:
    """A policy as the job has it, its weights fake; made within a FakeTensorMode."""
    precision = Precision(asked.precision)
    dtype = getattr(torch, precision.frozen if asked.lora else precision.trained)
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config(asked.model.tied), dtype=dtype)
        trunk = Trunk(
            model, build_tokenizer(), gradient_checkpointing=asked.recompute, precision=precision
        )
        if asked.lora:
            trunk.add_adapter("policy", LoraSettings(rank=asked.lora))
    fakes: dict[int, tuple[Tensor, Tensor]] = {}  # with what they stand for, which lives as long
    for part in model.modules():
        for held in (part._parameters, part._buffers):
            for name, real in held.items():
                if real is not None:
                    fake = torch.empty(real.shape, dtype=real.dtype)
                    if isinstance(real, nn.Parameter):
                        fake = nn.Parameter(fake, real.requires_grad)
                    held[name] = fakes.setdefault(id(real), (fake, real))[0]
    kind = "varlen" if asked.compute_bytes == 2 else "blocks"
    trunk.__dict__["packed"] = PackedForward(model, probe=False, attention=kind)
    return Role("policy", trunk, adapter="policy" if asked.lora else None, trainable=True)


def counted(asked: Job) -> float:
    """Most bytes of the job's forward and backward pass, besides the weights."""
    packed = batch(asked)
    entropy = asked.method in ("ppo", "grpo")
    with FakeTensorMode(allow_non_fake_inputs=True):
        role = policy(asked)
        with Peak(role.trunk.model) as seen:
            out = role.logprobs(packed, entropy=entropy, entropy_grad=asked.method == "ppo")
            loss = out.logprobs.sum()
            if asked.method == "ppo" and out.entropy is not None:
                loss = loss + out.entropy.sum()
            loss.backward()
    return float(seen.most)


def formula(asked: Job) -> float:
    found = memory(asked)
    return found.instants["forward and backward"] + found.always.get("narrow copies", 0.0)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "_check_head", lambda *_: None)  # there are no numbers
    monkeypatch.setattr(logprobs, "_CACHED_LOGITS", 10**12)  # all rows of a chunk at once
    at_once = costs.logits_within("cuda", GPU)
    monkeypatch.setattr(logprobs, "logits_at_once", lambda device: at_once)


MANY, FEW = (2, 4, 256, 448), (1, 1, 256, 1024)
"""More response tokens than the head keeps the logits of, and fewer."""
CASES = [
    job("grpo", MANY, precision="mixed"),
    job("grpo", MANY, precision="mixed", recompute=True, tied=False),
    job("sft", FEW, precision="mixed", lora=16, recompute=True),
    job("sft", FEW, precision="bfloat16"),
    job("ppo", MANY, precision="bfloat16", recompute=True, critics=0),
    job("grpo", MANY, precision="float32", lora=16),
]


@pytest.mark.parametrize("asked", CASES, ids=lambda j: f"{j.method}-{j.precision}-{j.lora}")
def test_the_largest_moment_is_what_is_counted(asked: Job) -> None:
    assert counted(asked) == pytest.approx(formula(asked), rel=0.06)


def test_a_gpus_head_taken_for_a_cpus_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the planner did: 128 MiB of logits, where there are 1 GiB."""
    real = counted(CASES[2])
    monkeypatch.setattr("gnomon.plan.memory.logits_within", lambda *_: costs.COSTS["cpu"].logits)
    assert formula(CASES[2]) < 0.8 * real
