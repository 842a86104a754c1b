"""The shipped base model of the tunnel: 1.8 million parameters, pretrained by ``pretrain.py``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.errors import ModelError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BASE_PATH = Path(__file__).parent / "base"
"""A plain Hugging Face model folder: anything that takes a model path takes this one."""


def load_base() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The base model (fp32, CPU, eval mode) and its tokenizer.

    Raises ModelError if the folder is not there (a broken installation).
    """
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # slow to import

    if not (BASE_PATH / "model.safetensors").is_file():
        raise ModelError(
            f"{BASE_PATH} holds no model.safetensors: reinstall gnomon, or make it again with "
            "python -m gnomon.tasks.tunnel.pretrain --out " + str(BASE_PATH)
        )
    model = LlamaForCausalLM.from_pretrained(BASE_PATH, use_safetensors=True, dtype="float32")
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(BASE_PATH)
