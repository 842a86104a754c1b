"""Models and tokenizer for the rollout tests."""

from collections.abc import Iterator

import pytest
from rollout_zoo import byte_tokenizer, family_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from served import Serve, Servers


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return family_model("llama", len(tokenizer))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts rollout servers in threads of this process; gives their addresses."""
    servers = Servers()
    yield servers.start
    servers.stop()
