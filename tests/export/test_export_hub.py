"""``--push-to-hub`` by huggingface_hub's own client, against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub

from command import Run, runs
from tiny_world import save_tiny

PUSH = ("mine", "--to", "merged", "--out", "out", "--push-to-hub")


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    save_tiny(tmp_path / "mine")
    card = "---\nlicense: mit\ntags:\n- gnomon\n---\n\n# mine\n"
    (tmp_path / "mine" / "README.md").write_text(card)
    return runs(tmp_path, monkeypatch, capsys, "export")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


def test_everything_arrives_private_with_its_card(
    gnomon: Run, hub: FakeHub, tmp_path: Path
) -> None:
    code, said = gnomon(*PUSH, "me/tiny")
    assert code == 0, said
    assert f"pushed: {hub.url}/me/tiny/commit/abc" in said
    assert hub.repos == {"me/tiny": True}
    here = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert {name.removeprefix("me/tiny/"): data for name, data in hub.files.items()} == here
    assert b"license: mit" in hub.files["me/tiny/README.md"]


def test_public_only_if_asked(gnomon: Run, hub: FakeHub) -> None:
    assert gnomon(*PUSH, "tiny", "--public")[0] == 0
    assert hub.repos == {"me/tiny": False}
    hub.files.clear()
    code, said = gnomon(*PUSH, "me/tiny", "--overwrite")
    assert code == 1
    assert "me/tiny is public" in said
    assert not hub.files


def test_an_earlier_exports_weights_are_not_left_beside_the_new_ones(
    gnomon: Run, hub: FakeHub, tmp_path: Path
) -> None:
    hub.repos["me/tiny"] = True
    stale = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "model-f16.gguf")
    kept = ("notes.md", "probes/model.npz")
    hub.files = {f"me/tiny/{name}": b"old" for name in (*stale, "Modelfile", *kept)}
    code, said = gnomon(*PUSH, "me/tiny")
    assert code == 0, said
    here = {p.name for p in (tmp_path / "out").iterdir()}
    assert {name.removeprefix("me/tiny/") for name in hub.files} == here | set(kept)


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_go_on(
    gnomon: Run, hub: FakeHub, tmp_path: Path
) -> None:
    hub.broken = True
    code, said = gnomon(*PUSH, "me/tiny")
    assert code == 1
    assert "hf upload me/tiny out" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "out" / "gnomon_export.json").read_text())["format"] == "merged"


@pytest.mark.parametrize(
    ("token", "repo", "offline", "message"),
    [
        (None, "me/tiny", False, "needs a token"),
        ("hf_bad", "me/tiny", False, "the hub refuses the token"),
        ("hf_good", "me/ti ny", False, "--push-to-hub 'me/ti ny'"),
        ("hf_good", "me/tiny", True, "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_stands_against_a_push_is_said_before_any_work(
    gnomon: Run,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    token: str | None,
    repo: str,
    offline: bool,
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    code, said = gnomon(*PUSH, repo)
    assert code == 1
    assert message in said
    assert "hf_" not in said
    assert "Traceback" not in said
    assert not hub.repos
    assert not (tmp_path / "out").exists()
