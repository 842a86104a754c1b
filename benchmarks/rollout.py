"""Rollout speed: gnomon's torch engine against transformers' generate, same process, same model.

    python benchmarks/rollout.py                       # SmolLM2-135M-shaped random Llama
    python benchmarks/rollout.py --model path/to/model # any causal model folder
    python benchmarks/rollout.py --samples 8 --rounds 3
    python benchmarks/rollout.py --against pages       # the cache in pages against row by row
    python benchmarks/rollout.py --against turns       # turns that keep the cache or not

Both sample at temperature 1 from prompts of mixed length. transformers gets the prompts padded on
the left and repeated once per sample, in batches of the engine's ``max_rows``. Settings: "fixed"
(EOS ignored, every response has the same length) and "eos" (responses end by themselves: a set of
tokens ends one with a chance of about 4% a step on a random model). Rounds alternate between the
two and the best of each counts, so that other work on the machine weighs on both alike; the ratios
of processor time are printed too, round by round, since it hardly feels what else runs.

For "fixed", the matrix products of both sides are timed bare: one pass over the prompts (padded or
not) and one over the rows, as often as they are made. Transformers' whole time over gnomon's bare
products is what the ratio would be if gnomon did nothing but multiply. ``--dtype bfloat16`` gives
both sides a model in bfloat16.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from common import machine
from gnomon.rollout import Request, SamplingParams, TorchEngine
from gnomon.rollout.linears import packed_linears
from gnomon.rollout.torch_engine import CacheOptions


def smollm2_shaped() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random Llama of SmolLM2-135M's shape and a tokenizer of one word a token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    words = {f"w{i}": i for i in range(config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def make_requests(args: argparse.Namespace, vocabulary: int) -> list[Request]:
    """Prompts of evenly spread lengths between ``--shortest`` and ``--longest`` tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(args.shortest, args.longest, args.prompts).long().tolist()
    order = torch.randperm(args.prompts, generator=generator).tolist()
    return [
        Request(
            id=f"prompt {i}",
            prompt_ids=torch.randint(5, vocabulary, (lengths[i],), generator=generator).tolist(),
            n=args.samples,
            seed=i,
        )
        for i in order
    ]


def run_transformers(
    model: PreTrainedModel, requests: list[Request], args: argparse.Namespace, eos: list[int]
) -> int:
    """Sample with ``generate``; returns the number of tokens in the responses, EOS included."""
    prompts = [list(r.prompt_ids) for r in requests for _ in range(r.n)]
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=args.new_tokens,
        eos_token_id=eos or None,
        pad_token_id=0,
    )
    made = 0
    for start in range(0, len(prompts), args.max_rows):
        batch = prompts[start : start + args.max_rows]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
        out = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:]
        ended = torch.isin(out, torch.tensor(eos, dtype=torch.long)).int().cumsum(1)
        made += int((ended.roll(1, 1).index_fill(1, torch.tensor([0]), 0) == 0).sum())
    return made


def run_gnomon(engine: TorchEngine, requests: list[Request], args: argparse.Namespace) -> int:
    """Sample with the engine; returns the number of tokens in the responses, EOS included."""
    results = engine.generate(requests, SamplingParams(max_new_tokens=args.new_tokens))
    return sum(len(c.ids) for row in results for c in row)


def run_turns(engine: TorchEngine, requests: list[Request], args: argparse.Namespace) -> int:
    """Four turns, each told eight tokens more; returns the number of tokens in the responses."""
    texts, made = [list(r.prompt_ids) for r in requests for _ in range(r.n)], 0
    with engine.keeping():
        for turn in range(4):
            asked = [Request(str(i), text, seed=turn) for i, text in enumerate(texts)]
            rows = engine.generate(asked, SamplingParams(max_new_tokens=args.new_tokens))
            made += sum(len(row[0].ids) for row in rows)
            texts = [[*t, *row[0].ids, *range(9, 17)] for t, row in zip(texts, rows, strict=True)]
    return made


@dataclass
class Round:
    """Tokens made, and the seconds it took: on the clock and of the processor."""

    made: int
    clock: float
    processor: float


def timed(run: Callable[[], int]) -> Round:
    """One round."""
    start = time.perf_counter(), time.process_time()
    made = run()
    return Round(made, time.perf_counter() - start[0], time.process_time() - start[1])


@torch.no_grad()
def bare_products(model: PreTrainedModel, passes: dict[int, int], scored: int) -> float:
    """Least processor seconds that the model's linear layers alone take.

    Args:
        passes: how often they are applied to so many rows.
        scored: most rows that the head sees.
    """
    head, linears = model.get_output_embeddings(), []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            linears.append(module)
    total = 0.0
    for rows, times in passes.items():
        inputs = {
            module: torch.randn(
                min(rows, scored) if module is head else rows, module.in_features
            ).to(module.weight.dtype)
            for module in linears
        }
        total += times * min(
            timed(lambda given=inputs: sum(len(m(x)) for m, x in given.items())).processor
            for _ in range(3)
        )
    return total


def show_products(
    model: PreTrainedModel, requests: list[Request], args: argparse.Namespace, theirs: float
) -> None:
    """Print what both sides' products take alone; ``theirs``: transformers' seconds in all."""
    rows, lengths = len(requests) * args.samples, [len(r.prompt_ids) for r in requests]
    steps = args.new_tokens - 1
    padded = bare_products(model, {rows * max(lengths): 1, rows: steps}, rows)
    with packed_linears(model):
        ours = bare_products(model, {sum(lengths): 1, rows: steps}, rows)
    print(
        f"  products alone, processor seconds: transformers {padded:.2f}, gnomon {ours:.2f}; "
        f"the most that the ratio could be: {theirs / ours:.2f}",
        flush=True,
    )


def contest(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    requests: list[Request],
    eos: list[int],
    args: argparse.Namespace,
) -> dict[str, Callable[[], int]]:
    """The two runs to compare, by name: what ``--against`` names, then the engine as it is."""

    def engine(**cache: bool | float) -> TorchEngine:
        options = CacheOptions(**cache)
        return TorchEngine(
            model, tokenizer, max_rows=args.max_rows, eos_token_ids=eos, cache=options
        )

    ours, pages, nothing = engine(), engine(paged=True), engine(kept_gib=0.0)
    if args.against == "pages":
        return {
            "pages": lambda: run_gnomon(pages, requests, args),
            "rows": lambda: run_gnomon(ours, requests, args),
        }
    if args.against == "turns":
        return {
            "turns afresh": lambda: run_turns(nothing, requests, args),
            "turns kept": lambda: run_turns(ours, requests, args),
        }
    return {
        "transformers": lambda: run_transformers(model, requests, args, eos),
        "gnomon": lambda: run_gnomon(ours, requests, args),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="model folder; default: random, SmolLM2-135M's shape")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 8], help="per prompt")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--shortest", type=int, default=16, help="prompt tokens")
    parser.add_argument("--longest", type=int, default=96, help="prompt tokens")
    parser.add_argument("--max-rows", type=int, default=256)
    parser.add_argument("--against", choices=["transformers", "pages", "turns"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=["fixed", "eos"], default=["fixed", "eos"])
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
    else:
        model, tokenizer = smollm2_shaped()
    model.eval().to(getattr(torch, args.dtype))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ending = list(range(0, vocabulary, 25))
    if args.model:
        own = model.generation_config.eos_token_id
        ending = own if isinstance(own, list) else [own]
    print(machine())
    print(
        f"{torch.get_num_threads()} thread(s), {args.prompts} prompts of {args.shortest}-"
        f"{args.longest} tokens, {args.new_tokens} new tokens, best of {args.rounds}"
    )
    sizes = list(args.samples)
    for args.samples in sizes:
        requests = make_requests(args, vocabulary)
        for setting in args.settings:
            eos = ending if setting == "eos" else []
            runs = contest(model, tokenizer, requests, eos, args)
            rounds = [[timed(run) for run in runs.values()] for _ in range(args.rounds)]
            (other, name), (theirs, ours) = runs, zip(*rounds, strict=True)
            best = [max(r.made / r.clock for r in side) for side in (theirs, ours)]
            each = [
                a.processor / a.made / (b.processor / b.made)
                for a, b in zip(theirs, ours, strict=True)
            ]
            least = [min(r.processor for r in side) for side in (theirs, ours)]
            print(
                f"{args.prompts} x {args.samples} {setting:5s}  {other} {best[0]:7.1f} tok/s"
                f"  {name} {best[1]:7.1f} tok/s  ratio {best[1] / best[0]:.2f}\n"
                f"  processor seconds: {least[0]:.2f} and {least[1]:.2f}, ratio by round: "
                f"{', '.join(f'{ratio:.2f}' for ratio in each)}",
                flush=True,
            )
            if setting == "fixed" and args.against in (None, "transformers"):
                show_products(model, requests, args, least[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak RSS of the process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
