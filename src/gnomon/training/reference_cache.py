"""Reference log-probs on disk: any run with the same model and tokens finds them there.

    <folder>/<model, tokenizer and dtype>/<shard>/logprobs.safetensors   keys, sums, lengths, tokens
    <folder>/<model, tokenizer and dtype>/<shard>/about.json             what made them; a checksum

A response is known by its prompt's and its own tokens, so runs share what they have in common
whatever their order, split or method. A shard is read only if what made it (the weights, the
tokenizer with its template and window, the dtype) is what is asked for and its file is whole;
otherwise its numbers are computed again and the reason is kept for the stage's record.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gnomon.algorithms.reference import sums_of
from gnomon.files import clean_temporaries, recover_folder, write_folder
from gnomon.records import TokenGroup

GROUPS_PER_SHARD = 128
VALUES, ABOUT = "logprobs.safetensors", "about.json"

_Known = dict[bytes, tuple[float, Tensor | None]]


@dataclass
class ReferenceCache:
    """A :class:`~gnomon.algorithms.base.ReferenceStore` in a folder.

    Args:
        folder: where the shards are; may be shared by any runs, and deleted at any time.
        model: fingerprint of the reference's weights.
        encoder: fingerprint of the tokenizer, template and window.
        dtype: what the reference is computed in.
        on_progress: called with (groups done, groups to do) while computing.

    Attributes:
        reused, computed: responses whose numbers came from the folder, or did not.
        refused: responses of the folder that were not used (for damage: files), by reason.
    """

    folder: Path
    model: str
    encoder: str
    dtype: str
    on_progress: Callable[[int, int], None] | None = None
    reused: int = 0
    computed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    _known: _Known | None = None

    def fetch(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> Tensor:
        """[S] sums over counted tokens, or [R] values; see ``ReferenceStore``."""
        known = self._open()
        keys = [_keys(group) for group in groups]

        def has(key: bytes) -> bool:
            return key in known and not (per_token and known[key][1] is None)

        missing = [i for i, of in enumerate(keys) if not all(map(has, of))]
        if missing:
            self._name_others({key for i in missing for key in keys[i]})
            if self.on_progress is not None:
                self.on_progress(0, len(missing))
        for start in range(0, len(missing), GROUPS_PER_SHARD):
            part = missing[start : start + GROUPS_PER_SHARD]
            self._compute([groups[i] for i in part], per_token, compute)
            if self.on_progress is not None:
                self.on_progress(start + len(part), len(missing))
        computed = sum(len(keys[i]) for i in missing)
        self.computed += computed
        self.reused += sum(map(len, keys)) - computed
        found = [known[key] for of in keys for key in of]
        if per_token:
            return torch.cat([tokens for _, tokens in found if tokens is not None])
        return torch.tensor([total for total, _ in found], dtype=torch.float32)

    def summary(self) -> dict[str, Any]:
        """For stage.json."""
        return {"reused": self.reused, "computed": self.computed, "refused": dict(self.refused)}

    # -- shards -----------------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, str]:
        """What the log-probs depend on besides the tokens."""
        return {"model": self.model, "encoder": self.encoder, "dtype": self.dtype}

    @property
    def home(self) -> Path:
        """The folder of this model, tokenizer and dtype."""
        text = json.dumps(self.about, sort_keys=True).encode()
        return self.folder / hashlib.sha256(text).hexdigest()[:24]

    def _open(self) -> _Known:
        """What the folder has for this model; read once."""
        if self._known is None:
            self._known = {}
            clean_temporaries(self.home)
            for shard in _shards(self.home):
                about, values = _read(shard)
                if about is None or values is None:
                    self.refused["damaged file"] += 1
                    continue
                other = [part for part, value in self.about.items() if about.get(part) != value]
                if other:
                    self.refused[_made_with(other)] += len(values["sums"])
                else:
                    self._add(values)
        return self._known

    def _add(self, values: dict[str, Tensor]) -> None:
        known = self._known if self._known is not None else {}
        lengths = values["lengths"].tolist()
        tokens = torch.split(values["tokens"], lengths) if "tokens" in values else None
        sums = values["sums"].tolist()
        for i, key in enumerate(values["keys"].numpy()):
            mine = tokens[i] if tokens is not None else None
            if mine is not None or key.tobytes() not in known:
                known[key.tobytes()] = (sums[i], mine)

    def _compute(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> None:
        keys = b"".join(key for group in groups for key in _keys(group))
        tokens = compute(groups).float()
        values = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).reshape(-1, 16),
            "sums": sums_of(groups, tokens),
            "lengths": torch.tensor([len(r.ids) for g in groups for r in g.responses]),
        }
        if per_token:
            values["tokens"] = tokens
        data = save(values)
        checksum = hashlib.sha256(data).hexdigest()
        with write_folder(self.home / checksum[:24], need=len(data)) as tmp:
            (tmp / VALUES).write_bytes(data)
            text = json.dumps(self.about | {"sha256": checksum}, indent=2)
            (tmp / ABOUT).write_text(text, encoding="utf-8")
        self._add(values)

    def _name_others(self, wanted: set[bytes]) -> None:
        """Count which of the missing responses other models' shards have, and say whose."""
        for home in sorted(self.folder.glob("*")):
            if home == self.home or not home.is_dir():
                continue
            for shard in _shards(home):
                about, values = _read(shard)
                if about is None or values is None:
                    continue
                other = [part for part, value in self.about.items() if about.get(part) != value]
                same = sum(key.tobytes() in wanted for key in values["keys"].numpy())
                if same and other:
                    self.refused[_made_with(other)] += same


def _shards(home: Path) -> Iterator[Path]:
    if home.is_dir():
        yield from sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(shard: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor] | None]:
    """(about, values) of a shard, None where it is not whole."""
    recover_folder(shard)
    try:
        about = json.loads((shard / ABOUT).read_text(encoding="utf-8"))
        data = (shard / VALUES).read_bytes()
        if about["sha256"] != hashlib.sha256(data).hexdigest():
            return None, None
        return about, load(data)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None, None


def _made_with(parts: Sequence[str]) -> str:
    return f"made with another {' and '.join(parts)}"


def _keys(group: TokenGroup) -> list[bytes]:
    """16 bytes for each response: a hash of its prompt's tokens, its own, and its mask."""
    prompt = hashlib.sha256(array("q", group.prompt_ids).tobytes())
    out: list[bytes] = []
    for response in group.responses:
        digest = prompt.copy()
        digest.update(f"/{len(response.ids)}/".encode())
        digest.update(array("q", response.ids).tobytes())
        digest.update(bytes(map(bool, response.mask)))
        out.append(digest.digest()[:16])
    return out
