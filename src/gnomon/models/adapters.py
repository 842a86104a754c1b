"""LoRA adapters by PEFT: putting them on a model, naming their parameters, reading saved ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gnomon.errors import ModelError
from gnomon.models.load import read_json
from gnomon.models.precision import NarrowLinear

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


class Adaptable(Protocol):
    """What takes adapters: a :class:`~gnomon.models.roles.Trunk`."""

    model: PreTrainedModel
    fingerprint: str

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added."""
        ...


PEFT_PREFIX = "base_model.model."  # how PEFT's own files name the wrapped model


@dataclass(frozen=True)
class LoraSettings:
    """How to adapt: W' = W + (alpha / rank) B A (Hu et al. 2021, "LoRA", equation 3).

    Attributes:
        rank: r, the inner width of B A.
        alpha: the scale's numerator.
        dropout: on the adapter's input, in training mode.
        targets: ``"all-linear"`` (every linear layer but the vocabulary head), or the last parts of
            module names, such as ``("q_proj", "v_proj")``.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] | list[str] = "all-linear"


def add(
    trunk: Adaptable,
    name: str,
    lora: LoraSettings | None,
    *,
    init_from: Path | str | None,
    seed: int,
) -> None:
    """Inject one adapter and freeze everything else that was not an adapter (see ``Trunk``)."""
    model = trunk.model
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name.startswith("lora_"):
        raise ModelError(f"{name!r} cannot name an adapter: letters, digits, '_' and '-' only")
    if name in trunk.adapters:
        raise ModelError(f"this trunk has an adapter {name!r} already")
    config, weights = _start(trunk, lora, init_from)
    trained = {
        id(p)
        for adapter in trunk.adapters
        for p in parameters(model, adapter).values()
        if p.requires_grad
    }
    try:
        _inject(model, config, name, seed)
        own = parameters(model, name)
        for parameter in own.values():
            if parameter.dtype in (torch.bfloat16, torch.float16):  # updates would be rounded away
                parameter.data = parameter.data.float()
        suit_trunk(model, name)
        if weights is not None:
            _fill(own, weights, f"adapter {name!r} from {init_from}")
        trained |= {id(p) for p in own.values()}
    except BaseException:
        _remove(model, name)
        raise
    finally:
        # peft's injection and removal both change flags of adapters that were there before
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)


def suit_trunk(model: PreTrainedModel, name: str) -> None:
    """Make a float32 adapter of a narrow trunk multiply in the trunk's type."""
    if model.dtype not in (torch.bfloat16, torch.float16):
        return
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            for matrix in (layer.lora_A[name], layer.lora_B[name]):
                if type(matrix) is nn.Linear:
                    matrix.__class__ = NarrowLinear
                    layer.cast_input_dtype_enabled = False


def narrow_matrices_of(model: PreTrainedModel, name: str) -> list[NarrowLinear]:
    """The adapter's matrices that multiply in another type than they are kept in."""
    pairs = [
        (layer.lora_A[name], layer.lora_B[name])
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
    ]
    return [matrix for pair in pairs for matrix in pair if isinstance(matrix, NarrowLinear)]


def _remove(model: PreTrainedModel, name: str) -> None:
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            layer.delete_adapter(name)
    getattr(model, "peft_config", {}).pop(name, None)


def parameters(model: PreTrainedModel, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters, keyed as PEFT's files key them less their common prefix."""
    found = {}
    for layer_name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for matrix in ("lora_A", "lora_B"):
            modules = getattr(layer, matrix)
            if name in modules:
                for key, parameter in modules[name].named_parameters():
                    found[f"{layer_name}.{matrix}.{key}"] = parameter
    return found


def target_modules(model: PreTrainedModel, targets: str | tuple[str, ...] | list[str]) -> list[str]:
    """Full names of the modules that ``targets`` means, whether adapters are on them or not."""
    output = model.get_output_embeddings()
    linear = {}
    for name, module in model.named_modules():
        inner = module.base_layer if isinstance(module, LoraLayer) else module
        if isinstance(inner, nn.Linear | Conv1D) and module is not output:
            linear[name] = inner
    linear = {n: m for n, m in linear.items() if not re.search(r"\.(base_layer|lora_[AB])\b", n)}
    if isinstance(targets, str):
        if targets != "all-linear":
            raise ModelError(f"LoRA targets are 'all-linear' or a list of names, not {targets!r}")
        return sorted(linear)
    chosen = {t: [n for n in linear if n == t or n.endswith("." + t)] for t in targets}
    lost = sorted(t for t, names in chosen.items() if not names)
    if lost or not chosen:
        known = sorted({n.rsplit(".", 1)[-1] for n in linear})
        raise ModelError(f"LoRA targets {lost} match no linear layer; this model has {known}")
    return sorted({n for names in chosen.values() for n in names})


def lora_config(model: PreTrainedModel, lora: LoraSettings) -> LoraConfig:
    """PEFT's configuration of the settings, with targets spelt as the shortest plain names."""
    if lora.rank < 1:
        raise ModelError(f"a LoRA rank is at least 1, not {lora.rank}")
    names = target_modules(model, lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_shortest(model, names),
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(_base(model.get_submodule(n)), Conv1D) for n in names),
    )


def _base(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, LoraLayer) else module


def _shortest(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Last parts of the names when they pick the same modules, else the full names."""
    short = sorted({n.rsplit(".", 1)[-1] for n in names})
    return short if target_modules(model, short) == names else names


def _inject(model: PreTrainedModel, config: LoraConfig, name: str, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):  # PEFT draws on the CPU whatever the device
        torch.default_generator.manual_seed(seed)
        known = getattr(model, "peft_config", None)
        if known is not None:
            del model.peft_config  # PEFT warns when it finds one; it is put back just below
        inject_adapter_in_model(config, model, adapter_name=name)
        model.peft_config = {**(known or {}), **model.peft_config}


def _start(
    trunk: Adaptable, lora: LoraSettings | None, init_from: Path | str | None
) -> tuple[LoraConfig, dict[str, Tensor] | None]:
    """The configuration to inject and the weights to fill in, if any."""
    if init_from is None:
        if lora is None:
            raise ModelError("a new adapter needs LoRA settings, or an adapter to start from")
        return lora_config(trunk.model, lora), None
    if isinstance(init_from, str) and init_from in trunk.adapters:
        config = LoraConfig(**_plain(trunk.model.peft_config[init_from]))
        weights = {k: p.detach() for k, p in parameters(trunk.model, init_from).items()}
    else:
        config, weights = read_adapter(Path(init_from), fingerprint=trunk.fingerprint)
    if lora is not None:
        config.lora_dropout = lora.dropout
        _compare(trunk.model, lora, config, init_from)
    return config, weights


def _plain(config: LoraConfig) -> dict[str, Any]:
    fields = ("r", "lora_alpha", "lora_dropout", "target_modules", "task_type", "fan_in_fan_out")
    more = ("use_rslora", "rank_pattern", "alpha_pattern")
    return {field: getattr(config, field) for field in (*fields, *more)}


def _compare(
    model: PreTrainedModel, lora: LoraSettings, config: LoraConfig, origin: Path | str
) -> None:
    wanted = (lora.rank, lora.alpha, target_modules(model, lora.targets))
    targets = config.target_modules
    targets = targets if isinstance(targets, str) else sorted(targets)
    found = (config.r, config.lora_alpha, target_modules(model, targets))
    for what, w, f in zip(("rank", "alpha", "targets"), wanted, found, strict=True):
        if w != f:
            raise ModelError(
                f"the settings ask for LoRA {what} {w}, but {origin} has {f}; make them agree or "
                "leave the settings out"
            )


def read_adapter(folder: Path, *, fingerprint: str = "") -> tuple[LoraConfig, dict[str, Tensor]]:
    """A saved PEFT LoRA adapter: its configuration, and its tensors keyed as in ``parameters``.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        fingerprint: of the weights it is put on; an adapter made for others is refused.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{folder} is not an adapter folder: it has no {ADAPTER_CONFIG}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        cure = (
            "adapter_model.bin is a pickle, which can run code, and is refused. Convert it where "
            "you trust it: load it with PEFT and save_pretrained(...) it again"
            if pickled
            else "the folder is incomplete"
        )
        raise ModelError(f"{folder} has no {ADAPTER_WEIGHTS}: {cure}")
    if (folder / "gnomon.json").is_file():
        made_for = read_json(folder / "gnomon.json").get("base_fingerprint", "")
        if fingerprint and made_for and made_for != fingerprint:
            raise ModelError(
                f"adapter {folder} was trained on other weights ({made_for[:12]}) than this "
                f"model's ({fingerprint[:12]}); load the model it belongs to"
            )
    raw = read_json(folder / ADAPTER_CONFIG)
    if raw.get("peft_type") != "LORA" or raw.get("use_dora") or raw.get("modules_to_save"):
        raise ModelError(
            f"{folder / ADAPTER_CONFIG}: only plain LoRA adapters are supported (no DoRA, no "
            "modules_to_save); merge it into its model with PEFT and load the result"
        )
    config = LoraConfig(**_plain(LoraConfig.from_pretrained(str(folder))))
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / ADAPTER_WEIGHTS} cannot be read: {error}") from error
    return config, {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}


def _fill(own: dict[str, nn.Parameter], weights: dict[str, Tensor], what: str) -> None:
    missing, extra = sorted(own.keys() - weights), sorted(weights.keys() - own)
    if missing or extra:
        raise ModelError(
            f"{what} does not fit this model: {len(missing)} tensors missing ({missing[:2]}), "
            f"{len(extra)} unknown ({extra[:2]})"
        )
    for key, parameter in own.items():
        if parameter.shape != weights[key].shape:
            raise ModelError(
                f"{what}: {key} has shape {tuple(weights[key].shape)}, the model needs "
                f"{tuple(parameter.shape)}"
            )
        parameter.data.copy_(weights[key])
