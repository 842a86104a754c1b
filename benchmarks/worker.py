"""Runs one side of a benchmark: ``python worker.py JOB.json MEASURED.json`` (see ``common.run``).

Each side trains as its users would run it: gnomon by its own Loop, TRL by its own trainer. Both get
the same tokens in the same order, the same learning rate, clipping and AdamW settings.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import rows as row_files
from common import Job, Measured, cpu_seconds, matmul_gflops, parameter_counts, peak_rss_gb
from gnomon.records import TokenGroup
from gnomon.training.callbacks import Callback, StepDone

BETA = 0.1
LORA_RANK, LORA_ALPHA = 16, 32
ADAM = {"betas": (0.9, 0.95), "eps": 1e-8}
CLIP = 1.0


class Finished(KeyboardInterrupt):
    """The last step is done: no checkpoint is written that the other side would not write. As an
    interrupt it passes through the Loop's callbacks."""


class Clock(Callback):
    """Times optimiser steps and keeps their losses; stands in for gnomon's Progress too."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.measured = Measured()

    def start(self) -> None:
        """The first step begins now."""
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def step(self) -> None:
        """A step has ended, and the next begins."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        self.measured.seconds.append(wall - self._wall)
        self.measured.cpu_seconds.append(cpu - self._cpu)
        self.measured.peak_rss_gb = peak_rss_gb()
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()

    def losses(self, row: Mapping[str, Any], logprobs: str) -> None:
        """Keep a step's loss, and what both sides must agree on (see ``Measured``)."""
        loss = float(row["loss"])
        sides = [row.get(f"{logprobs}/{side}") for side in ("chosen", "rejected")]
        self.measured.losses.append(loss)
        found = [float(value) for value in sides if value is not None]
        self.measured.checks.append(sum(found) / len(found) if found else loss)

    def on_step(self, event: StepDone) -> None:
        """gnomon's Loop reports a finished iteration."""
        self.step()
        self.losses(event.metrics, "logprobs")
        if event.iteration == self.steps:
            raise Finished

    def note(self, text: str) -> None:
        """gnomon's Loop says what a benchmark must not contain: a step that trained nothing."""
        raise RuntimeError(text)


def reward_head_weight(hidden_size: int) -> torch.Tensor:
    """[1, H] the reward head both sides start from."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, hidden_size, generator=draw) * (hidden_size + 1) ** -0.5


# -- gnomon ---------------------------------------------------------------------------------------


def run_gnomon(job: Job) -> Measured:
    """The job by gnomon's own roles, method and loop."""
    from gnomon.algorithms.base import Workbench
    from gnomon.algorithms.registry import METHODS
    from gnomon.models.load import load_causal_lm
    from gnomon.recipe.schema import StageSpec
    from gnomon.recipe.training import LoraSpec, TrainSpec
    from gnomon.stages.names import stage_settings
    from gnomon.stages.roles import RoleBuilder
    from gnomon.training.learner import GivenSource, Learner
    from gnomon.training.loop import Loop
    from gnomon.training.optim import LoopOptions

    rows = row_files.load(Path(job.rows))
    stage = StageSpec(
        name="benchmark",
        algorithm=job.algorithm,
        lora=LoraSpec(rank=LORA_RANK, alpha=LORA_ALPHA) if job.lora else None,
        train=TrainSpec(
            steps=len(rows.schedule),
            gradient_checkpointing=job.checkpointing,
            compile=job.compile,
        ),
        settings=_settings(job),
    )
    method, settings = METHODS[job.algorithm].algorithm, stage_settings(stage)
    loaded = load_causal_lm(job.model)
    trunk_size, head_size = parameter_counts(loaded.model)
    roles = RoleBuilder(stage, loaded, seed=0).build(method.needs(settings), None)
    if job.algorithm == "reward_model":
        head = roles["reward_model"].head
        assert head is not None
        head.weight.data.copy_(reward_head_weight(head.hidden_size))
    bench = Workbench(
        roles,
        method=job.algorithm,
        batch_size=len(rows.schedule[0]),
        iterations=len(rows.schedule),
        tokens_per_microbatch=job.microbatch_tokens,
    )
    began, began_cpu = time.perf_counter(), cpu_seconds()
    algorithm = method(settings, bench)
    source: Any = GivenSource(algorithm, rows.groups)
    before, before_cpu = time.perf_counter() - began, cpu_seconds() - began_cpu
    source.sampler = _Scheduled(rows.schedule)
    clock: Any = Clock(len(rows.schedule))
    with tempfile.TemporaryDirectory() as folder:
        options = LoopOptions(
            iterations=len(rows.schedule) + 1,
            lr=job.lr,
            schedule="constant",
            warmup=0,
            max_grad_norm=CLIP,
            checkpoint_every=10**9,
            sample_every=10**9,
        )
        loop = Loop(Learner(algorithm, source), options, Path(folder), clock)
        clock.start()
        try:
            loop.run()
        except Finished:
            measured: Measured = clock.measured
        measured.before_seconds, measured.before_cpu_seconds = before, before_cpu
        if job.profile:
            tokens, responses = _computed(rows.steps()[-1])
            head_tokens = 0 if job.algorithm == "reward_model" else responses
            # forward 2, and backward 2 for what flows down and 2 for the weights that are trained
            flops = (4 if job.lora else 6) * (trunk_size * tokens + head_size * head_tokens)
            measured.speed = _speed(loop, clock, flops)
    return measured


def _settings(job: Job) -> dict[str, Any]:
    if job.algorithm != "dpo":
        return {}
    return {"beta": BETA, "reference": "cached" if job.cached else "live"}


class _Scheduled:
    """A sampler that gives the steps as they were written down."""

    def __init__(self, schedule: list[list[int]]) -> None:
        self.schedule = schedule

    def batch(self, iteration: int) -> list[int]:
        return self.schedule[min(iteration, len(self.schedule) - 1)]


def _computed(groups: list[TokenGroup]) -> tuple[int, int]:
    """Tokens that the packed forward computes, and response tokens among them."""
    return (
        sum(g.num_tokens() for g in groups),
        sum(len(r.ids) for g in groups for r in g.responses),
    )


def _speed(loop: Any, clock: Clock, flops: float) -> dict[str, float]:
    """FLOP rates of the last timed step and of a plain matmul; shares of a profiled step."""
    wall, cpu = clock.measured.seconds[-1], clock.measured.cpu_seconds[-1]
    plain = matmul_gflops()
    shares = profile_shares(lambda: _one_more(loop))
    return {
        "model_gflops": flops / wall / 1e9,
        "matmul_gflops": plain["wall"],
        "share_of_matmul_rate": flops / wall / 1e9 / plain["wall"],
        "share_of_matmul_rate_cpu": flops / cpu / 1e9 / plain["cpu"],
        **shares,
    }


def _one_more(loop: Any) -> None:
    """The last step once more, through the loop's own code."""
    from gnomon.algorithms.metric import MetricSums

    loop.learner.train_mode(True)
    experience = loop.learner.experience(10**6)
    for minibatch in experience.minibatches:
        loop.updater.step(experience, minibatch, MetricSums(), [])


OPERATIONS = {
    "matmul": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention", "aten::_softmax"),
    "optimiser": ("fused_adamw", "_foreach", "addcdiv_", "addcmul_", "lerp_", "Optimizer."),
    "memory": ("aten::copy_", "aten::fill_", "aten::cat", "aten::index", "aten::zero_"),
}


def profile_shares(step: Callable[[], None]) -> dict[str, float]:
    """Shares of a step's CPU time by kind of operation, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    time_of: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        kind = next(
            (
                kind
                for kind, names in OPERATIONS.items()
                if any(
                    event.key == n if n.startswith("aten::mm") else n in event.key for n in names
                )
            ),
            "elementwise and other",
        )
        time_of[kind] += event.self_cpu_time_total
    total = sum(time_of.values())
    return {f"share: {kind}": spent / total for kind, spent in sorted(time_of.items())}


# -- TRL ------------------------------------------------------------------------------------------


def run_trl(job: Job) -> Measured:
    """The job by TRL's own trainer."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    rows = row_files.load(Path(job.rows))
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    # TRL finds a sequence's last token by the pad id, so pad must not be the EOS
    tokenizer.pad_token = _unused_token(tokenizer, rows.groups)
    flat = [group for step in rows.steps() for group in step]
    with tempfile.TemporaryDirectory() as folder:
        make = {"sft": _trl_sft, "reward_model": _trl_reward, "dpo": _trl_dpo}[job.algorithm]
        data = Dataset.from_list([_trl_row(job.algorithm, group) for group in flat])
        clock = Clock(len(rows.schedule))
        began, began_cpu = time.perf_counter(), cpu_seconds()
        trainer = make(job, data, tokenizer, _trl_arguments(job, rows, folder))
        before, before_cpu = time.perf_counter() - began, cpu_seconds() - began_cpu
        _train_in_order(trainer, clock)
    if job.cached:
        clock.measured.before_seconds = before
        clock.measured.before_cpu_seconds = before_cpu
    return clock.measured


def _trl_row(algorithm: str, group: TokenGroup) -> dict[str, list[int]]:
    """A group as the tokens that TRL's collator takes."""
    prompt = list(group.prompt_ids)
    if algorithm == "sft":
        (response,) = group.responses
        labels = [t if m else -100 for t, m in zip(response.ids, response.mask, strict=True)]
        return {
            "input_ids": prompt + list(response.ids),
            "labels": [-100] * len(prompt) + labels,
        }
    (comparison,) = group.comparisons
    chosen = list(group.responses[comparison.better].ids)
    rejected = list(group.responses[comparison.worse].ids)
    if algorithm == "reward_model":
        return {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _unused_token(tokenizer: Any, groups: list[TokenGroup]) -> str:
    """A token of the vocabulary that no row holds."""
    used = {t for g in groups for t in g.prompt_ids}
    used |= {t for g in groups for r in g.responses for t in r.ids}
    free = next(i for i in range(len(tokenizer)) if i not in used)
    return str(tokenizer.convert_ids_to_tokens(free))


def _trl_arguments(job: Job, rows: row_files.Rows, folder: str) -> dict[str, Any]:
    """What all of TRL's configs take: the same steps, rate, optimiser and precision as gnomon."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "max_steps": len(rows.schedule),
        "per_device_train_batch_size": len(rows.schedule[0]) // job.accumulate,
        "gradient_accumulation_steps": job.accumulate,
        "gradient_checkpointing": job.checkpointing,
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "adam_beta1": ADAM["betas"][0],
        "adam_beta2": ADAM["betas"][1],
        "adam_epsilon": ADAM["eps"],
        "max_grad_norm": CLIP,
        "max_length": None,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _causal_lm(job: Job) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)


def _peft_config(job: Job) -> Any:
    from peft import LoraConfig

    if not job.lora:
        return None
    return LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear")


def _trl_sft(job: Job, data: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=_causal_lm(job),
        args=SFTConfig(**arguments),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_peft_config(job),
    )


def _trl_reward(job: Job, data: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(
        job.model, num_labels=1, dtype=torch.float32
    )
    model.score.weight.data.copy_(reward_head_weight(model.config.hidden_size))
    return RewardTrainer(
        model=model,
        args=RewardConfig(**arguments),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_peft_config(job),
    )


def _trl_dpo(job: Job, data: Any, tokenizer: Any, arguments: dict[str, Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        """DPOTrainer on rows that are tokens already."""

        def _prepare_dataset(self, dataset: Any, *unused: Any) -> Any:
            return dataset

    return Tokenised(
        model=_causal_lm(job),
        args=DPOConfig(beta=BETA, precompute_ref_log_probs=job.cached, **arguments),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_peft_config(job),
    )


def _train_in_order(trainer: Any, clock: Clock) -> None:
    """Train on the rows in their order, with the clock ticking at each optimiser step."""
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def on_train_begin(self, *unused: Any, **named: Any) -> None:
            clock.start()

        def on_step_end(self, *unused: Any, **named: Any) -> None:
            clock.step()

        def on_log(self, *unused: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" in logs:
                clock.losses(logs, "logps")

    trainer._get_train_sampler = lambda *unused: SequentialSampler(trainer.train_dataset)
    trainer.add_callback(Ticks())
    trainer.train()


def main() -> None:
    asked, answer = (Path(name) for name in sys.argv[1:])
    job = Job(**json.loads(asked.read_text()))
    measured = {"gnomon": run_gnomon, "trl": run_trl}[job.side](job)
    answer.write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
