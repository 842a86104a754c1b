"""Reference log-probs on disk, so that a run, its resumption and the next one share one pass.

Each entry holds up to a thousand groups and is known by everything that its numbers hang on: the
model's weights, the tokenizer with its template and window, the tokens themselves and the dtype.
An entry is read only if all of that agrees with what is asked and its file is whole; otherwise the
numbers are computed anew and the reason is kept for the stage's record.

    <folder>/<tokens>-<key>/logprobs.safetensors   sums [S], and tokens [R] where they were needed
    <folder>/<tokens>-<key>/about.json             what they were made from, and a checksum
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gnomon.algorithms.reference import sums_of
from gnomon.atomic import recover_folder, write_folder
from gnomon.data.records import TokenGroup

GROUPS_PER_ENTRY = 1024
VALUES, ABOUT = "logprobs.safetensors", "about.json"


@dataclass
class ReferenceCache:
    """A :class:`~gnomon.algorithms.reference.ReferenceStore` in a folder.

    Args:
        folder: where the entries are; may be shared by any runs, and deleted at any time.
        model: fingerprint of the reference's weights.
        encoder: fingerprint of the tokenizer, template and window.
        dtype: what the reference is computed in.
        on_progress: is told of (responses done, all responses) while computing.

    Attributes:
        reused, computed: responses whose numbers came from the folder, or did not.
        refused: why entries for the same tokens were not used, counted.
    """

    folder: Path
    model: str
    encoder: str
    dtype: str
    on_progress: Callable[[int, int], None] | None = None
    reused: int = 0
    computed: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def fetch(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> Tensor:
        """[S] sums over counted tokens, or [R] values; see ``ReferenceStore``."""
        parts: list[Tensor] = []
        for start in range(0, len(groups), GROUPS_PER_ENTRY):
            part = groups[start : start + GROUPS_PER_ENTRY]
            parts.append(self._entry(part, per_token, compute))
            if self.on_progress is not None:
                self.on_progress(min(start + GROUPS_PER_ENTRY, len(groups)), len(groups))
        return torch.cat(parts)

    def summary(self) -> dict[str, Any]:
        """For stage.json."""
        return {
            "reused": self.reused,
            "computed": self.computed,
            "refused": dict(self.refused),
        }

    def _entry(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> Tensor:
        responses = sum(len(g.responses) for g in groups)
        about = self._about(groups)
        path = self.folder / _name(about)
        stored = self._read(path, about, per_token, responses)
        if stored is not None:
            self.reused += responses
            return stored
        self._name_others(path, about, responses)
        tokens = compute(groups)
        values = {"sums": sums_of(groups, tokens)} | ({"tokens": tokens} if per_token else {})
        data = save({name: value.float().contiguous() for name, value in values.items()})
        with write_folder(path, need=len(data)) as tmp:
            (tmp / VALUES).write_bytes(data)
            checksum = {"sha256": hashlib.sha256(data).hexdigest()}
            (tmp / ABOUT).write_text(json.dumps(about | checksum, indent=2), encoding="utf-8")
        self.computed += responses
        return values["tokens" if per_token else "sums"]

    def _about(self, groups: Sequence[TokenGroup]) -> dict[str, str]:
        return {
            "model": self.model,
            "encoder": self.encoder,
            "dtype": self.dtype,
            "tokens": tokens_fingerprint(groups),
        }

    def _read(
        self, path: Path, about: dict[str, str], per_token: bool, responses: int
    ) -> Tensor | None:
        recover_folder(path)
        if not path.is_dir():
            return None
        try:
            said = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            data = (path / VALUES).read_bytes()
            for part, value in about.items():
                if said.get(part) != value:
                    self.refused[f"made with another {part}"] += responses
                    return None
            if said.get("sha256") != hashlib.sha256(data).hexdigest():
                raise ValueError("checksum")
            values = load(data)
        except (OSError, ValueError, AttributeError, SafetensorError):
            self.refused["damaged"] += responses
            return None
        return values.get("tokens" if per_token else "sums")

    def _name_others(self, path: Path, about: dict[str, str], responses: int) -> None:
        """Say which entries for the same tokens were passed over, and why."""
        for other in sorted(self.folder.glob(f"{about['tokens'][:16]}-*")):
            if other == path:
                continue
            try:
                said = json.loads((other / ABOUT).read_text(encoding="utf-8"))
                parts = [part for part, value in about.items() if said.get(part) != value]
            except (OSError, ValueError, AttributeError):
                continue
            self.refused[f"made with another {' and '.join(parts)}"] += responses


def tokens_fingerprint(groups: Sequence[TokenGroup]) -> str:
    """sha256 of the groups' tokens and masks, in order (hexadecimal)."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(f"{len(group.prompt_ids)}/{len(group.responses)};".encode())
        digest.update(array("q", group.prompt_ids).tobytes())
        for response in group.responses:
            digest.update(f"{len(response.ids)};".encode())
            digest.update(array("q", response.ids).tobytes())
            digest.update(bytes(map(bool, response.mask)))
    return digest.hexdigest()


def _name(about: dict[str, str]) -> str:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return f"{about['tokens'][:16]}-{key[:16]}"
