"""Putting an export on the Hugging Face hub, private unless asked otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, RunError
from gnomon.files import first_line

REPLACED = (
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("model-*.gguf", "Modelfile"),
)
"""Files of an earlier export that go where the new one lacks them: they would be loaded instead."""


class Hub:
    """A repository to push to, checked before any work is done.

    Args:
        repo: ``name`` or ``owner/name``.
        public: whether anybody may read it.

    Raises:
        ConfigError: an impossible name, no token, one that the hub refuses, or a public repository
            where a private one is asked for.
    """

    def __init__(self, repo: str, public: bool = False) -> None:
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        self.public = public
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(f"--push-to-hub {repo!r}: {first_line(error)}") from error
        if constants.HF_HUB_OFFLINE:
            raise ConfigError("--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be pushed")
        token = get_token()
        if token is None:
            raise ConfigError(
                "--push-to-hub needs a token that may write, and there is none: hf auth login, or "
                "set HF_TOKEN"
            )
        self._api: Any = HfApi(token=token)
        self.repo = repo if "/" in repo else f"{self._owner()}/{repo}"
        self._check_open()

    def _owner(self) -> str:
        return str(self._asked(self._api.whoami, "the hub refuses the token")["name"])

    def _check_open(self) -> None:
        """That the token is good, and that a repository which exists is as private as asked."""
        from huggingface_hub.errors import RepositoryNotFoundError

        self._owner()
        try:
            found = self._api.repo_info(self.repo)
        except RepositoryNotFoundError:
            return
        except Exception as error:
            raise ConfigError(f"{self.repo} on the hub: {first_line(error)}") from error
        if not self.public and not found.private:
            raise ConfigError(
                f"{self.repo} is public, and everybody could read what is pushed. Say --public if "
                "that is meant, or push to another name"
            )

    @staticmethod
    def _asked(ask: Any, problem: str) -> Any:
        try:
            return ask()
        except Exception as error:  # the network's, the hub's, the library's own
            raise ConfigError(
                f"{problem}: {first_line(error)}. Check hf auth whoami and the network"
            ) from error

    def push(self, folder: Path) -> str:
        """Put a folder there in one commit, in place of an earlier export's model; its address.

        Raises:
            RunError: it did not arrive whole; the folder is here all the same.
        """
        try:
            self._api.create_repo(self.repo, private=not self.public, exist_ok=True)
            done = self._api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                commit_message="Exported by gnomon",
                delete_patterns=list(REPLACED),
            )
        except Exception as error:
            raise RunError(
                f"{self.repo} was not pushed: {first_line(error)}. {folder} is whole; push it "
                f"again with: hf upload {self.repo} {folder}"
            ) from error
        return str(done.commit_url)
