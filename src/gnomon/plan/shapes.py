"""The shapes of models: what a plan needs to know of one, and no weights.

A shape comes from a local ``config.json`` or, by the id of a public model, from ``models.json``,
whose shapes are those of the configurations published with the weights. Instruction-tuned
descendants have their base model's shape, so ``meta-llama/Llama-3.1-8B-Instruct`` is found too.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from gnomon.errors import ConfigError, ModelError
from gnomon.files import first_line

_TUNED = re.compile(
    r"-(instruct|it|chat|pt|base|thinking|hf|sft|dpo|v\d[\d.]*|\d{4})(?=-|$)", re.IGNORECASE
)


class NoShapeError(ConfigError):
    """A model that the numbers of a transformer do not describe."""


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer's shape.

    Attributes:
        name: the id or the folder.
        layers, hidden, mlp, heads, kv_heads, head_dim, vocabulary: as in the model's config; of a
            mixture of experts, ``mlp`` is the width of one expert.
        tied: the output head is the embedding.
        experts, active: experts of a layer, and how many a token passes through; 0 if dense.
        shared_experts: that every token passes through, beside those.
        dense_layers, dense_width: layers without experts, and their MLP's width.
        attention: parameters of a layer's attention, where they are not the usual four matrices
            (DeepSeek's latent attention).
        cache: numbers that a layer keeps of a token for later ones; 0: 2 x kv_heads x head_dim.
        window, windowed: tokens that ``windowed`` of the layers look back at most.
        norms: of a layer: 2, or 4 where attention's and the MLP's results have their own.
        qk_norm: queries and keys are normalised, head by head.
        wide_norms: norms scale in float32 whatever the weights are (Gemma).
        softcap: scores of attention are squashed, so that they are held whole (Gemma 2).
        biases: numbers of the biases of one layer.
        counted: parameters as counted on an empty model of an architecture that these fields do
            not describe; 0: by formula.
        kept: float32 numbers that a layer of such a model keeps of a token for the backward pass,
            with all weights trained and with LoRA; None: by formula.
    """

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    experts: int = 0
    active: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    dense_width: int = 0
    attention: int = 0
    cache: int = 0
    window: int = 0
    windowed: int = 0
    norms: int = 2
    qk_norm: bool = False
    wide_norms: bool = False
    softcap: bool = False
    biases: int = 0
    counted: int = 0
    kept: tuple[float, float] | None = None

    @property
    def wide(self) -> int:
        """Numbers of one token's queries."""
        return self.heads * self.head_dim

    @property
    def narrow(self) -> int:
        """Numbers of one token's keys."""
        return self.kv_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Of one layer's attention."""
        return self.attention or 2 * self.hidden * (self.wide + self.narrow)

    @property
    def active_mlp(self) -> int:
        """The MLP's width for one token, over its experts."""
        return self.mlp * max(1, self.active + self.shared_experts)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, or of the head, which is as large."""
        return self.vocabulary * self.hidden

    def _layers(self, experts: int) -> int:
        """Parameters of all layers, with so many experts in each that has any."""
        expert = 3 * self.hidden * self.mlp
        if not self.experts:
            mlp = self.layers * expert
        else:
            routed = (experts + self.shared_experts) * expert + self.hidden * self.experts
            mlp = (self.layers - self.dense_layers) * routed
            mlp += self.dense_layers * 3 * self.hidden * self.dense_width
        small = self.norms * self.hidden + 2 * self.head_dim * self.qk_norm + self.biases
        return self.layers * (self.attention_parameters + small) + mlp + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        counted = self._layers(self.experts) + self.embedding * (1 if self.tied else 2)
        return self.counted or counted

    @property
    def matrices(self) -> int:
        """Parameters that multiply: all but an embedding that is only looked up, and norms."""
        return self.parameters - (0 if self.tied else self.embedding)

    def adapter(self, rank: int) -> int:
        """Parameters of one LoRA adapter on every linear layer: rank x (in + out). Experts that a
        layer holds as one block have none."""
        attention = 2 * (self.hidden + self.wide) + 2 * (self.hidden + self.narrow)
        dense = self.dense_layers if self.experts else self.layers
        width = self.dense_width if self.experts else self.mlp
        mlps = dense * 3 * (self.hidden + width)
        if self.shared_experts:
            shared = self.mlp * self.shared_experts
            mlps += (self.layers - dense) * 3 * (self.hidden + shared)
        return rank * (self.layers * attention + mlps)

    @property
    def active_parameters(self) -> int:
        """Those a token is multiplied with: layers with its own experts, and the head."""
        return self._layers(self.active) + self.embedding

    @property
    def cache_numbers(self) -> int:
        """Numbers kept for each token, over all layers."""
        return self.layers * (self.cache or 2 * self.kv_heads * self.head_dim)

    def attended(self, context: float) -> float:
        """Multiplications and additions (FLOP) of one token with ``context`` tokens before it,
        over all layers: scores and values, 2 FLOP each a number."""
        near = min(context, self.window) if self.window else context
        seen = self.windowed * near + (self.layers - self.windowed) * context
        return 4.0 * self.heads * self.head_dim * seen


def shape_of(model: str) -> Shape:
    """The shape of a model.

    Args:
        model: a folder with a config.json, that file, or a public model's id (or its last part).

    Raises:
        ConfigError: no such folder and no such model; a config of a kind that is not known.
    """
    path = Path(model)
    config = path / "config.json" if path.is_dir() else path
    if config.suffix == ".json" or path.is_dir():
        return _read(config, model)
    if model == "smollm2-135m":
        model = "HuggingFaceTB/SmolLM2-135M"
    known = public_models()
    by_short = {_short(name): name for name in known}
    found = by_short.get(_short(model)) if "/" not in model or _family(model) else None
    if found is None:
        by_short["tunnel"] = "tunnel"  # the one in this package
        close = difflib.get_close_matches(_short(model), by_short, 3, 0.6)
        hint = f" Did you mean {', '.join(by_short[c] for c in close)}?" if close else ""
        raise ConfigError(
            f"model {model!r}: no folder of that name here, and not in the table of public models."
            f"{hint} Give a folder with its config.json, or one of: {', '.join(known)}"
        )
    return Shape(name=model, **known[found])


@cache
def public_models() -> Mapping[str, Mapping[str, Any]]:
    """Shapes of public models by their hub id."""
    table: dict[str, dict[str, Any]] = json.loads(
        files("gnomon.plan").joinpath("models.json").read_text(encoding="utf-8")
    )
    return table


def _short(model: str) -> str:
    """A model's name without owner and what tuning adds to it: ``llama-3.1-8b``."""
    name = model.rpartition("/")[2].lower().replace("meta-llama-", "llama-")
    name = name.replace("llama-3.3-70b", "llama-3.1-70b").replace("llama-3-", "llama-3.1-")
    return _TUNED.sub("", name)


def _family(model: str) -> bool:
    """Whether the owner is one whose models are listed; others' may have any shape."""
    owners = {name.partition("/")[0].lower() for name in public_models()}
    return model.partition("/")[0].lower() in owners


_KEYS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "mlp": ("intermediate_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "active": ("num_experts_per_tok",),
    "shared_experts": ("n_shared_experts",),
    "dense_layers": ("first_k_dense_replace",),
}


_KNOWN = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3"}
    | {"mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"}
)
"""Architectures that a shape describes; others are counted on an empty model."""
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "gemma": {"wide_norms": True},
    "gemma2": {"wide_norms": True, "norms": 4, "softcap": True},
    "gemma3_text": {"wide_norms": True, "norms": 4, "qk_norm": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True},
}
"""What a family's layers have that others' have not."""


def _read(path: Path, model: str) -> Shape:
    """The shape in a config.json; what it leaves out is as its architecture has it.

    Raises:
        ConfigError: no such file, or not a language model's.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"model {model!r}: there is no {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a model's configuration: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise ConfigError(f"{path} is no model's configuration: it names no model_type")
    said = raw.get("text_config", raw)
    missing = [k for k in ("layers", "hidden") if not any(said.get(key) for key in _KEYS[k])]
    if missing:  # its architecture would fill them in, with another model's
        wanted = ", ".join(_KEYS[key][0] for key in missing)
        raise ConfigError(f"{path} has no {wanted}: not the configuration of a language model")
    from transformers import AutoConfig  # takes seconds to import

    kind = raw.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be used ({kind}): {first_line(error)}") from None
    return shape_of_config(config, model)


def shape_of_config(config: Any, name: str = "") -> Shape:
    """The shape of a model by its transformers configuration; the same whoever asks.

    An architecture whose layers are no Llama's is counted on an empty model.

    Raises:
        NoShapeError: a model without attention (of states alone, say).
    """
    text = config.get_text_config()
    raw = text.to_dict()
    name = name or config.name_or_path or text.model_type
    found: dict[str, Any] = {
        ours: next((raw[key] for key in theirs if raw.get(key) is not None), None)
        for ours, theirs in _KEYS.items()
    }
    missing = [k for k in ("layers", "hidden", "heads", "vocabulary") if found[k] is None]
    if missing:
        wanted = ", ".join(_KEYS[key][0] for key in missing)
        raise NoShapeError(f"{name}: its configuration has no {wanted}, so that it has no shape")
    found["mlp"] = found["mlp"] or 4 * found["hidden"]
    found["kv_heads"] = found["kv_heads"] or found["heads"]
    found["head_dim"] = found["head_dim"] or found["hidden"] // found["heads"]
    if found["experts"]:
        found["dense_width"] = found["mlp"]
        found["mlp"] = raw.get("moe_intermediate_size") or found["mlp"]
    else:
        found["active"] = found["shared_experts"] = 0
    numbers = {field.name for field in fields(Shape)} & found.keys()
    kinds = raw.get("layer_types") or ()
    shape = Shape(
        name=name,
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        window=int(raw.get("sliding_window") or 0) if "sliding_attention" in kinds else 0,
        windowed=sum(kind == "sliding_attention" for kind in kinds),
        **_latent(raw, found["heads"], found["hidden"]),
        **_FAMILIES.get(text.model_type, {}),
        **cast(dict[str, Any], {key: int(found[key] or 0) for key in numbers}),
    )
    if text.model_type == "qwen2" or raw.get("attention_bias"):
        queries = shape.hidden if raw.get("attention_bias") else 0  # the last matrix's
        shape = replace(shape, biases=shape.wide + 2 * shape.narrow + queries)
    return shape if text.model_type in _KNOWN else _counted(shape, config)


def _counted(shape: Shape, config: Any) -> Shape:
    """The shape of an architecture that its fields do not describe, counted on an empty model."""
    from gnomon.models.memory import kept_numbers, parameter_count

    shape = replace(shape, counted=parameter_count(config))
    try:
        full, lora = (kept_numbers(config, adapted) / shape.layers for adapted in (False, True))
    except ModelError:  # it cannot be run empty: its layers are taken for a Llama's
        return shape
    return replace(shape, kept=(full, lora))


def _latent(text: Mapping[str, Any], heads: int, hidden: int) -> dict[str, Any]:
    """Parameters and cache of DeepSeek's latent attention, where a config has it."""
    rank = text.get("kv_lora_rank")
    if not rank:
        return {}
    rope, plain, value = (
        int(text[k]) for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    )
    query_rank = text.get("q_lora_rank")
    wide = heads * (rope + plain)
    queries = query_rank * (hidden + wide) if query_rank else hidden * wide
    keys = hidden * (rank + rope) + rank * heads * (plain + value)
    return {"attention": queries + keys + heads * value * hidden, "cache": rank + rope}
