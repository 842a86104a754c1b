"""Models and tokenizer for the rollout tests."""

import pytest
from rollout_zoo import byte_tokenizer, family_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return family_model("llama", len(tokenizer))
