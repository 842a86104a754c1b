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
two and the best of each counts, so that other work on the machine weighs on both alike; the ratio
of processor time is printed too, since it hardly feels what else runs.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

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


def best_rates(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Best tokens per second of each run over the rounds: by the clock and by the processor."""
    rates = dict.fromkeys(runs, (0.0, 0.0))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            made = run()
            spent = time.perf_counter() - start[0], time.process_time() - start[1]
            clock, processor = rates[name]
            rates[name] = max(clock, made / spent[0]), max(processor, made / spent[1])
    return rates


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
    model.eval()
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
            rates = best_rates(runs, args.rounds)
            (other, theirs), (name, ours) = rates.items()
            print(
                f"{args.prompts} x {args.samples} {setting:5s}  {other} {theirs[0]:7.1f} tok/s"
                f"  {name} {ours[0]:7.1f} tok/s  ratio {ours[0] / theirs[0]:.2f}"
                f"  (processor time: {ours[1] / theirs[1]:.2f})",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak RSS of the process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
