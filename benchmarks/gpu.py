"""What one GPU does: same numbers as a CPU, attention, the head, a training step, decoding.

    python benchmarks/gpu.py parity      every method's loss and gradient against the CPU's, host
                                         waits, and a run of three steps against a resumed one
    python benchmarks/gpu.py attention   blocks, varlen, flex at 8 x 16k, 64 x 4k and mixed lengths
    python benchmarks/gpu.py head        log-probs of the vocabulary head, bf16 and fp32
    python benchmarks/gpu.py step --model qwen3-0.6b --tokens 16384 65536 --mode full
    python benchmarks/gpu.py decode --rows 32 128 512

Weights are random, so nothing is downloaded. Each ended within 3 minutes on one H200
(docs/gpu.md has what they said). ``--device cpu --tiny`` drives the same code at a size for a test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, Qwen3Config

from gnomon.data.batch import Batch, pack
from gnomon.models.adapters import LoraSettings
from gnomon.models.logprobs import OutputHead, token_logprobs
from gnomon.models.precision import Precision
from gnomon.models.roles import Role, Trunk
from gnomon.models.varlen import Attention, Kind, PassPlan
from gnomon.records import TokenGroup, TokenResponse
from gnomon.rollout.protocol import Request, SamplingParams
from gnomon.rollout.torch_engine import CacheOptions, TorchEngine
from gnomon.training.optim import make_optimizer

TESTS = Path(__file__).resolve().parents[1] / "tests"
SIZES = {  # width, MLP, layers, heads, key heads, head size, vocabulary
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128, 151936),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151936),
    "tiny": (32, 48, 2, 4, 2, 8, 320),
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bfloat16 FLOP/s, by a part of the card's name (the makers' data sheets)."""
PRIME_RL = {("full", 16384): 11896, ("lora16", 16384): 13340, ("full", 65536): 10150}
"""Tokens/s of qwen3-0.6b that prime-rl states for one H100."""


class Clock:
    """Time and memory on a device; with ``profile``, the kernels that took most of it too."""

    def __init__(self, device: torch.device, repeats: int, profile: bool = False) -> None:
        self.device, self.repeats, self.profile = device, repeats, profile
        self.cuda = device.type == "cuda"

    def __call__(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of one call after a warm one (the best of ``repeats``), and peak GiB above what
        was there; 0 GiB on a CPU, which does not count it."""
        before = 0
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        work()  # what it keeps (masks, plans) counts in the memory, and not in the time
        if self.cuda:
            torch.cuda.synchronize()
        best = float("inf")
        for _ in range(self.repeats):
            began = time.perf_counter()
            work()
            if self.cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() - before if self.cuda else 0
        if self.profile and self.cuda:
            self._show_kernels(work)
        return best, peak / 2**30

    def _show_kernels(self, work: Callable[[], Any]) -> None:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as watched:
            work()
            torch.cuda.synchronize()
        events = [e for e in watched.key_averages() if e.self_device_time_total]
        events.sort(key=lambda e: -e.self_device_time_total)
        total = sum(e.self_device_time_total for e in events)
        print(f"  {sum(e.count for e in events)} kernels, {total / 1e3:.1f} ms on the device:")
        for e in events[:12]:
            took = e.self_device_time_total
            print(f"  {took / total:6.1%} {took / 1e3:8.1f} ms {e.count:6} x {e.key[:90]}")


def model(name: str, device: torch.device, dtype: torch.dtype, window: int) -> Any:
    H, F, L, A, B, d, V = SIZES[name]
    config = Qwen3Config(
        hidden_size=H, intermediate_size=F, num_hidden_layers=L, num_attention_heads=A,
        num_key_value_heads=B, head_dim=d, vocab_size=V, tie_word_embeddings=True,
        max_position_embeddings=window,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def rows(shape: list[tuple[int, int, int]], vocabulary: int) -> Batch:
    """A batch of (prompt, responses, tokens of each) groups of random tokens."""
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=draw).tolist()

    return pack(
        [
            TokenGroup(str(i), ids(P), tuple(TokenResponse(ids(T), [True] * T) for _ in range(K)))
            for i, (P, K, T) in enumerate(shape)
        ]
    )


# -- the subcommands ------------------------------------------------------------------------------


def parity(args: argparse.Namespace) -> None:
    sys.path[:0] = [str(TESTS), str(TESTS / "algorithms")]
    import test_every_method as methods

    import tiny_world as tw
    from gnomon.algorithms.registry import METHODS

    device = args.device
    warnings.simplefilter("ignore")
    worst = 0.0
    for name in sorted(METHODS)[: 3 if args.tiny else None]:
        learner = methods.fresh(name)
        minibatch = learner.experience(0).minibatches[0]
        loss, gradient = tw.step_gradient(learner, minibatch.groups, minibatch.text)
        for role in learner.roles.values():
            role.trunk.model.to(device)
            if role.head is not None:
                role.head.to(device)
        learner.bench.device = device
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            there, moved = tw.step_gradient(learner, minibatch.groups, minibatch.text)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        waits = sum("synchroniz" in str(w.message) for w in said)
        gap = tw.distance({k: g.cpu() for k, g in moved.items()}, gradient)
        worst = max(worst, gap, abs(there - loss) / max(abs(loss), 1e-3))
        print(f"{name:16} loss {loss:+.6f} {there:+.6f}  gradient {gap:.1e} apart  waits {waits}")
    print(f"largest relative difference {worst:.1e}")
    same = _resumed(args)
    print(f"three steps, twice: {'the same bytes' if same else 'OTHER BYTES'}")
    if worst > 1e-3 or not same:
        raise SystemExit("not the same as on the CPU")


def _resumed(args: argparse.Namespace) -> bool:
    """Whether a run of three steps on the device, and one that is resumed, leave the same bytes."""
    from safetensors.torch import load_file

    from gnomon.recipe.load import parse_recipe
    from gnomon.stages.run import run_recipe
    from gnomon.training.callbacks import Callback

    class Stops(Callback):
        def on_step(self, event: Any) -> None:
            if event.iteration == 2:
                event.stop("to be resumed")

    with tempfile.TemporaryDirectory() as folder:
        data = {"path": "tunnel:demonstrations", "options": {"n": 16, "seed": 1}}
        train = {"steps": 3, "batch_size": 4, "lr": 1e-4, "checkpoint_every": 1}
        stage = {"name": "sft", "algorithm": "sft", "data": data, "train": train}
        found = []
        for name in ("whole", "resumed"):
            raw = {"name": name, "model": "tunnel", "output": folder, "max_length": 160}
            recipe = parse_recipe(raw | {"device": args.device.type, "stages": [stage]})
            base, quiet = Path(folder), lambda line: None
            if name == "resumed":
                try:
                    run_recipe(recipe, base=base, announce=quiet, callbacks=[Stops()])
                except Exception as stopped:
                    print(f"  {str(stopped).splitlines()[0][:70]}")
            run_recipe(recipe, base=base, announce=quiet, resume=name == "resumed")
            file = base / name / "stages" / "01-sft" / "model" / "model.safetensors"
            found.append(load_file(file))
        return all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def attention(args: argparse.Namespace) -> None:
    """Attention alone, forward and backward, over the same visible pairs. In a fixed order, the two
    ways that there are; what a backend computes otherwise is not one."""
    shapes = {
        "8 x 16k": [(2048, 1, 14336)] * 8,
        "64 x 4k": [(1024, 1, 3072)] * 64,
        "mixed": [(512, 8, 256 * 2**i) for i in range(6)],
        "short": [(256, 8, 128)] * 32,
        "ragged": [(16, 1, 16 + 37 * i % 480) for i in range(512)],
    }
    if args.tiny:
        shapes = {"tiny": [(8, 2, 8)] * 2}
    elif args.shapes:
        shapes = {name: shape for name, shape in shapes.items() if name in args.shapes}
    _, _, _, A, B, d, V = SIZES[args.model]
    cuda = args.device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    for label, shape in shapes.items():
        batch = rows(shape, V).to(args.device)
        given = [
            torch.randn(n, batch.num_tokens, d, device=args.device, dtype=dtype, requires_grad=True)
            for n in (A, B, B)
        ]
        plan, fixed = PassPlan.of(batch), args.deterministic
        ways: dict[str, Callable[[], Tensor]] = {
            "blocks": partial(_attend, plan, given, "blocks", fixed)
        }
        if cuda and not fixed:
            for name in ("CUDNN", "FLASH", "EFFICIENT"):
                backend = getattr(SDPBackend, f"{name}_ATTENTION")
                ways[f"blocks by {name.lower()}"] = partial(_blocks, plan, given, backend)
        if cuda:
            ways["varlen"] = partial(_attend, plan, given, "varlen", fixed)
        if not args.no_flex and not fixed:
            ways["flex"] = _flex(batch, *given)
        base = 0.0
        for kind, forward in ways.items():
            base = _shown(args, label, kind, forward, given, base)


def _attend(plan: PassPlan, given: Sequence[Tensor], kind: Kind, fixed: bool) -> Tensor:
    return Attention(plan, kind, fixed).attend(*given)


def _blocks(plan: PassPlan, given: Sequence[Tensor], backend: Any) -> Tensor:
    with sdpa_kernel(backend):
        return plan.masked.attend(*given)


def _shown(
    args: argparse.Namespace,
    label: str,
    kind: str,
    forward: Callable[[], Tensor],
    given: Sequence[Tensor],
    base: float,
) -> float:
    def both() -> None:
        forward().float().mean().backward()

    def gradients() -> list[Tensor]:
        for leaf in given:
            leaf.grad = None
        both()
        return [leaf.grad for leaf in given if leaf.grad is not None]

    try:
        seconds, size = args.clock(both)
        pairs = zip(gradients(), gradients(), strict=True)
        bits = "the same bits" if all(torch.equal(a, b) for a, b in pairs) else "OTHER BITS"
    except (RuntimeError, NotImplementedError) as error:
        print(f"{label:8} {kind:19} cannot run: {str(error).splitlines()[0][:80]}")
        torch.cuda.empty_cache()
        return base
    base = base or seconds
    print(
        f"{label:8} {kind:19} {1e3 * seconds:9.1f} ms  {size:6.2f} GiB  {base / seconds:5.2f} x  "
        f"twice: {bits}"
    )
    return base


def _flex(batch: Batch, query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Tensor]:
    """Flex attention over the pairs that a batch's tokens see."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    N, device = batch.num_tokens, batch.input_ids.device
    group, response = (torch.zeros(N, dtype=torch.long, device=device) for _ in range(2))
    for i, segment in enumerate(batch.segments):
        group[segment.prompt[0] : segment.end] = i
        for k, (a, b) in enumerate(segment.responses):
            response[a:b] = k + 1

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        mine = (response[k] == 0) | (response[k] == response[q])
        return (group[q] == group[k]) & mine & (k <= q)

    cuda = device.type == "cuda"
    mask = create_block_mask(sees, None, None, N, N, device=str(device), _compile=cuda)
    run = torch.compile(flex_attention) if cuda else flex_attention
    given = [x[None] if cuda else x.detach()[None] for x in (query, key, value)]
    weight = torch.ones((), requires_grad=True)  # a CPU's flex attention has no backward pass
    return lambda: run(*given, block_mask=mask, enable_gqa=True) * (1 if cuda else weight)


def head(args: argparse.Namespace) -> None:
    made = model(args.model, args.device, torch.bfloat16, 16384)
    batch = rows([(4, 1, 60 if args.tiny else 16380)], made.config.vocab_size).to(args.device)
    H = made.config.hidden_size
    base = 0.0
    for name, exact in (("bfloat16", False), ("float32", True)):
        if exact:
            Trunk(made, None, precision=Precision("mixed", float32_head=True))  # type: ignore[arg-type]
        hidden = torch.randn(batch.num_tokens, H, device=args.device, dtype=torch.bfloat16)
        hidden.requires_grad_()

        def both(hidden: Tensor = hidden) -> None:
            token_logprobs(hidden, OutputHead.of(made), batch).logprobs.mean().backward()

        seconds, size = args.clock(both)
        base = base or seconds
        print(f"head in {name:9} {1e3 * seconds:8.1f} ms {size:6.2f} GiB  {base / seconds:.2f} x")


def step(args: argparse.Namespace) -> None:
    for tokens in args.tokens:
        lora = args.mode == "lora16"
        precision = Precision("mixed", deterministic=args.deterministic)
        dtype = getattr(torch, precision.frozen if lora else precision.trained)
        made = model(args.model, args.device, dtype, tokens)
        trunk = Trunk(
            made,
            None,  # type: ignore[arg-type]
            gradient_checkpointing=not args.keep,
            compile=args.compile,
            precision=precision,
        )
        if lora:
            trunk.add_adapter("policy", LoraSettings(rank=16))
        policy = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
        optimizer = make_optimizer(list(policy.named_parameters().items()), lr=1e-6)
        batch = rows([(2, 1, tokens - 2)], made.config.vocab_size).to(args.device)

        def once(policy: Role = policy, batch: Batch = batch, optimizer: Any = optimizer) -> None:
            (-policy.logprobs(batch).logprobs.mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds, _ = args.clock(once)
        size = torch.cuda.max_memory_allocated() / 2**30 if args.clock.cuda else 0.0
        rate = tokens / seconds
        numbers = sum(p.numel() for p in made.parameters())
        c = made.config
        scores = 6 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * tokens
        flops = (6 * numbers + scores) * rate
        peak = next((f for card, f in PEAK.items() if card in args.card), None)
        used = f"  MFU {flops / peak:.1%}" if peak else ""
        theirs = PRIME_RL.get((args.mode, tokens)) if args.model == "qwen3-0.6b" else None
        ratio = f"  {rate / theirs:.2f} x prime-rl's {theirs} on an H100" if theirs else ""
        how = " kept" * args.keep + " compiled" * args.compile
        print(
            f"{args.mode}{how} {tokens} tokens: {rate:,.0f} tokens/s  {size:.1f} GiB{used}{ratio}"
        )
        del made, trunk, policy, optimizer, once


def decode(args: argparse.Namespace) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = model(args.model, args.device, torch.bfloat16, 4096)
    core = Tokenizer(models.WordLevel({"<e>": 0}, unk_token="<e>"))
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<e>")
    new = 4 if args.tiny else 32 if args.profile else 256  # a profile holds every kernel
    args.clock.repeats = 1  # each is some thousand passes
    for count in args.rows:
        asked = [Request(f"{i}", list(range(3, 67)), n=1, seed=i) for i in range(count)]
        ids = torch.tensor([r.prompt_ids for r in asked], device=args.device)

        def generate(ids: Tensor = ids) -> None:
            with torch.no_grad():
                made.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                    min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
                )  # fmt: skip

        sides: dict[str, Callable[[], Any]] = {"transformers": generate}
        caches = {
            "gnomon": CacheOptions(),
            "pages": CacheOptions(
                page=64
            ),  # which each layer copies, where rows are not read whole
            "no-graphs": CacheOptions(cuda_graphs=False),
        }
        for name, cache in caches.items():
            engine = TorchEngine(made, words, max_rows=count, eos_token_ids=(), cache=cache)
            sides[name] = partial(engine.generate, asked, SamplingParams(max_new_tokens=new))
        base = 0.0
        for side in args.sides:
            seconds, size = args.clock(sides[side])
            rate = count * new / seconds
            base = base or rate
            print(
                f"{count:4} rows: {side:14} {rate:10,.0f} tokens/s  {size:6.2f} GiB  "
                f"{rate / base:6.2f} x"
            )


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = {f.__name__: f for f in (parity, attention, head, step, decode)}
    parser.add_argument("what", choices=list(commands))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few tokens")
    parser.add_argument("--model", default="qwen3-0.6b", choices=list(SIZES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--mode", choices=["full", "lora16"], default="full")
    parser.add_argument("--keep", action="store_true", help="activations are not recomputed")
    parser.add_argument("--compile", action="store_true", help="the layers, by torch.compile")
    parser.add_argument("--shapes", nargs="+", help="of attention, by name")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="gradients of attention and step in a fixed order, as a recipe's deterministic: true",
    )
    kinds = ("transformers", "gnomon", "pages", "no-graphs")
    parser.add_argument("--sides", nargs="+", choices=kinds, default=kinds, help="of decode")
    parser.add_argument("--no-flex", action="store_true", help="which takes minutes to compile")
    parser.add_argument("--profile", action="store_true", help="and the kernels that took longest")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 128, 512])
    args = parser.parse_args(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"there is no CUDA device for torch {torch.__version__} here, so nothing can be "
            "measured. --device cpu --tiny drives the same code at a tiny size"
        )
    if args.device == "cpu" and not args.tiny:
        raise SystemExit("--device cpu goes with --tiny: at full size it would take days")
    if args.tiny:
        args.model, args.tokens, args.rows = "tiny", [64], [2, 4]
    args.device = torch.device(args.device)
    args.clock = Clock(args.device, 1 if args.tiny else 3, args.profile)
    cuda = args.device.type == "cuda"
    args.card = torch.cuda.get_device_name() if cuda else "a CPU: not a measurement"
    print(f"{args.what} on {args.card}, torch {torch.__version__}")
    commands[args.what](args)


if __name__ == "__main__":
    main()
