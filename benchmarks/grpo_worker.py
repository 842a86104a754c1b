"""Runs one side of the GRPO benchmark: ``python grpo_worker.py JOB.json MEASURED.json``.

Each side trains as its users would run it, by its own loop, sampler and loss; see ``grpo.py`` for
what both are given. With ``scripted`` the completions are not sampled but read from the rows, so
that losses and gradients of the two can be compared.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import rows as row_files
from common import Measured, cpu_seconds, matmul_gflops, peak_rss_gb
from gnomon.training.callbacks import Callback, StepDone
from worker import ADAM, CLIP, Finished, _Scheduled, _unused_token

BETA = 0.04


@dataclass(frozen=True)
class GrpoJob:
    """One side of the GRPO benchmark.

    Attributes:
        side: "gnomon" or "trl".
        model: folder of the model; rows: file written by ``rows.save``: prompts, each with as many
            completions as are sampled (used when ``scripted``).
        new_tokens: longest response; with ``forced`` every response has this length.
        scripted: take the rows' completions instead of sampling.
        lr: constant.  checkpointing: recompute activations in the backward pass (TRL's default).
        microbatch_tokens: gnomon's budget of one forward pass.
        accumulate: TRL's gradient accumulation: its batch is cut into this many.
        device, dtype: of weights and computation on both sides.
        trl_vllm: TRL samples with vLLM in its own process (colocate); trl_liger: its loss is
            liger's fused kernel.
        matmul: measure the machine's matmul rate too.
        compile: gnomon: run the layers compiled; the warm-up step pays for compiling.
    """

    side: str
    model: str
    rows: str
    new_tokens: int
    forced: bool = True
    scripted: bool = False
    lr: float = 1e-6
    checkpointing: bool = False
    microbatch_tokens: int = 4096
    accumulate: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    trl_vllm: bool = False
    trl_liger: bool = False
    matmul: bool = False
    compile: bool = False


def scripted_rewards(count: int) -> list[float]:
    """The rewards of a step's responses in order, whatever they say: in every group two in three
    fail, and the groups differ. No group is without spread, so both sides train on all of them."""
    return [float(i % 3 == 0) + 0.1 * (i % 7) for i in range(count)]


class Recorder:
    """Times steps and their phases."""

    def __init__(self, device: str) -> None:
        self.measured = Measured()
        self.cuda = device == "cuda"
        self._phases: dict[str, float] = {}
        self._tokens = 0

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with its seconds added to a phase of the current step."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.now() - began
                self._phases[phase] = self._phases.get(phase, 0.0) + spent

        return call

    def sampled(self, lengths: Sequence[int]) -> None:
        """The current step's responses have these lengths."""
        self._tokens += sum(lengths)

    def start(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self._wall, self._cpu = self.now(), cpu_seconds()

    def step(self) -> None:
        """A step has ended, and the next begins."""
        wall, cpu, m = self.now(), cpu_seconds(), self.measured
        m.seconds.append(wall - self._wall)
        m.cpu_seconds.append(cpu - self._cpu)
        m.peak_rss_gb = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else peak_rss_gb()
        m.phases.append(self._shares(wall - self._wall))
        m.tokens.append(self._tokens)
        self._phases, self._tokens = {}, 0
        self._wall, self._cpu = self.now(), cpu_seconds()

    def _shares(self, seconds: float) -> dict[str, float]:
        """Seconds by phase; what holds another phase counts without it, the rest is "other"."""
        spent = dict(self._phases)
        rollouts, backward = spent.pop("rollouts", 0.0), spent.pop("training", 0.0)
        if rollouts:
            spent["reference and rewards"] = rollouts - spent.get("generation", 0.0)
        if backward:
            spent["backward"] = backward - rollouts - spent.get("forward", 0.0)
        return {**spent, "optimiser and other": seconds - sum(spent.values())}


# -- gnomon ---------------------------------------------------------------------------------------


def run_gnomon(job: GrpoJob) -> Measured:
    """The job by gnomon's own roles, engine, method and loop."""
    from gnomon.algorithms.base import Workbench
    from gnomon.algorithms.registry import METHODS
    from gnomon.algorithms.rollouts import EncodedPrompt
    from gnomon.models.load import load_causal_lm
    from gnomon.recipe.schema import StageSpec
    from gnomon.recipe.training import TrainSpec
    from gnomon.records import Message, Prompt
    from gnomon.rollout.protocol import SamplingParams
    from gnomon.rollout.torch_engine import TorchEngine
    from gnomon.stages.names import stage_settings
    from gnomon.stages.roles import RoleBuilder
    from gnomon.training.learner import Learner
    from gnomon.training.loop import Loop
    from gnomon.training.optim import LoopOptions
    from gnomon.training.sampled import Played, SampledSource, Sampling

    rows = row_files.load(Path(job.rows))
    steps, samples = len(rows.schedule), len(rows.groups[0].responses)
    stage = StageSpec(
        name="benchmark",
        algorithm="grpo",
        train=TrainSpec(steps=steps, gradient_checkpointing=job.checkpointing, compile=job.compile),
        # TRL corrects for the sampler with vLLM only, and then by other weights
        settings={"beta": BETA, "importance_correction": "off"},
    )
    method, settings = METHODS["grpo"].algorithm, stage_settings(stage)
    loaded = load_causal_lm(job.model, dtype=job.dtype, device=job.device)
    roles = RoleBuilder(stage, loaded, seed=0).build(method.needs(settings), None)
    recorder = Recorder(job.device)
    prompts = [
        EncodedPrompt(Prompt(g.id, (Message("user", g.id),)), list(g.prompt_ids))
        for g in rows.groups
    ]
    engine: Any = TorchEngine(
        roles["policy"].trunk.model,
        loaded.tokenizer,
        eos_token_ids=[] if job.forced else None,
    )
    if job.scripted:
        engine = _Scripted(rows)
    engine.generate = recorder.timed("generation", _counting(engine.generate, recorder))
    bench = Workbench(
        roles,
        method="grpo",
        batch_size=len(rows.schedule[0]),
        iterations=steps,
        samples=samples,
        longest_response=job.new_tokens,
        tokens_per_microbatch=job.microbatch_tokens,
        device=torch.device(job.device),
    )
    sampling = Sampling(SamplingParams(max_new_tokens=job.new_tokens), samples)
    algorithm = method(settings, bench)
    played = Played(engine, _scripted_judge(), sampling=sampling)
    source: Any = SampledSource(algorithm, prompts, played)
    source.sampler = _Scheduled(rows.schedule)
    learner: Any = Learner(algorithm, source)
    learner.experience = recorder.timed("rollouts", learner.experience)
    learner.loss = recorder.timed("forward", learner.loss)
    options = LoopOptions(
        iterations=steps + 1,
        lr=job.lr,
        schedule="constant",
        warmup=0,
        max_grad_norm=CLIP,
        checkpoint_every=10**9,
        sample_every=10**9,
    )
    with tempfile.TemporaryDirectory() as folder:
        progress: Any = _Progress(recorder, steps)
        loop: Any = Loop(learner, options, Path(folder), progress)
        strategy = loop.updater.strategy
        strategy.backward = recorder.timed("backward", strategy.backward)
        recorder.start()
        with suppress(Finished):
            loop.run()
    return _with_matmul(job, recorder.measured)


def _counting(generate: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        out = generate(*args, **kwargs)
        recorder.sampled([len(c.ids) for row in out for c in row])
        return out

    return call


class _Progress(Callback):
    """Told by gnomon's Loop of each finished iteration."""

    def __init__(self, recorder: Recorder, steps: int) -> None:
        self.recorder, self.steps = recorder, steps

    def on_step(self, event: StepDone) -> None:
        self.recorder.step()
        self.recorder.measured.losses.append(event.metrics["loss"])
        self.recorder.measured.grad_norms.append(event.metrics["grad_norm"])
        if event.iteration == self.steps:
            raise Finished

    def note(self, text: str) -> None:
        """The Loop says what a benchmark must not contain: a step that trained nothing."""
        raise RuntimeError(text)


class _Scripted:
    """An engine that says what the rows say. Its log-probs are not used: nothing is corrected."""

    def __init__(self, rows: row_files.Rows) -> None:
        self.said = {g.id: [tuple(r.ids) for r in g.responses] for g in rows.groups}

    def generate(self, requests: Any, *unused: Any) -> Any:
        from gnomon.rollout.protocol import Completion

        return [
            [Completion(ids, torch.zeros(len(ids)), "length", "") for ids in self.said[r.id]]
            for r in requests
        ]

    def sync_weights(self) -> None: ...

    def rest(self) -> None: ...


def _scripted_judge() -> Any:
    """A judge that takes no time: the rewards are written down."""
    from gnomon.judges.protocol import Sample, SampleJudge, Score

    class Scripted(SampleJudge):
        name = "scripted"

        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            return [Score(value) for value in scripted_rewards(len(samples))]

    return Scripted()


# -- TRL ------------------------------------------------------------------------------------------


def run_trl(job: GrpoJob) -> Measured:
    """The job by TRL's GRPOTrainer."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    rows = row_files.load(Path(job.rows))
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = _unused_token(tokenizer, rows.groups)
    recorder = Recorder(job.device)
    groups = {g.id: g for g in rows.groups}

    class OnTokens(GRPOTrainer):
        """GRPOTrainer on prompts that are tokens already, with the clock in its phases."""

        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            return [list(groups[p].prompt_ids) for p in prompts], None, {}

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            if job.scripted:
                return self._said, None
            out = recorder.timed("generation", super()._generate_single_turn)(*args, **kwargs)
            recorder.sampled([len(ids) for ids in out[0]])
            return out

        def _generate(self, prompts: list[str]) -> Any:
            k = self.num_generations
            self._said = [list(r.ids) for p in prompts[::k] for r in groups[p].responses]
            return super()._generate(prompts)

        def _generate_and_score_completions(self, *args: Any) -> Any:
            return recorder.timed("rollouts", super()._generate_and_score_completions)(*args)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return recorder.timed("forward", super().compute_loss)(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            return recorder.timed("training", super().training_step)(*args, **kwargs)

    class Ticks(TrainerCallback):
        def on_train_begin(self, *unused: Any, **named: Any) -> None:
            recorder.start()

        def on_step_end(self, *unused: Any, **named: Any) -> None:
            recorder.step()

        def on_log(self, *unused: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" in logs:
                recorder.measured.losses.append(float(logs["loss"]))
                recorder.measured.grad_norms.append(float(logs["grad_norm"]))

    with tempfile.TemporaryDirectory() as folder:
        trainer = OnTokens(
            model=job.model,
            args=_trl_config(job, rows, folder),
            train_dataset=Dataset.from_list(
                [{"prompt": g.id} for step in rows.steps() for g in step]
            ),
            reward_funcs=lambda completions, **unused: scripted_rewards(len(completions)),
            processing_class=tokenizer,
        )
        trainer.add_callback(Ticks())
        trainer.train()
    return _with_matmul(job, recorder.measured)


def _trl_config(job: GrpoJob, rows: row_files.Rows, folder: str) -> Any:
    from trl import GRPOConfig

    samples = len(rows.groups[0].responses)
    bf16 = job.dtype == "bfloat16"
    return GRPOConfig(
        output_dir=folder,
        use_cpu=job.device == "cpu",
        bf16=bf16,
        model_init_kwargs={"dtype": job.dtype},
        max_steps=len(rows.schedule),
        per_device_train_batch_size=len(rows.schedule[0]) * samples // job.accumulate,
        gradient_accumulation_steps=job.accumulate,
        gradient_checkpointing=job.checkpointing,
        num_generations=samples,
        max_completion_length=job.new_tokens,
        temperature=1.0,
        beta=BETA,
        loss_type="grpo",
        scale_rewards="group",
        use_bias_correction_kl=False,  # TRL's default weighs k3 by the ratio; the paper does not
        generation_kwargs={"min_new_tokens": job.new_tokens} if job.forced else None,
        use_vllm=job.trl_vllm,
        use_liger_kernel=job.trl_liger,
        shuffle_dataset=False,
        learning_rate=job.lr,
        lr_scheduler_type="constant",
        adam_beta1=ADAM["betas"][0],
        adam_beta2=ADAM["betas"][1],
        adam_epsilon=ADAM["eps"],
        max_grad_norm=CLIP,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _with_matmul(job: GrpoJob, measured: Measured) -> Measured:
    if job.matmul and job.device == "cpu":
        measured.speed = {"matmul_gflops": matmul_gflops()["wall"]}
    return measured


def main() -> None:
    asked, answer = (Path(name) for name in sys.argv[1:])
    job = GrpoJob(**json.loads(asked.read_text()))
    measured = {"gnomon": run_gnomon, "trl": run_trl}[job.side](job)
    answer.write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
