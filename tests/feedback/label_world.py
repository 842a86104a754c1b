"""A store with questions, and somebody in front of the labelling app."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.testclient import TestClient

from gnomon.feedback import auth
from gnomon.feedback.app import make_app
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Item
from gnomon.feedback.store import Campaign, Guideline, Store
from gnomon.records import Message, Prompt, Response
from gnomon.web.guard import Guard

GUIDELINE = "# How to judge\n\nPrefer the answer that is **right**, then the shorter one."


def said(text: str) -> Response:
    return Response((Message("assistant", text),), meta={"model": "secret-model-7"})


def asked(text: str, *, id: str = "p", system: str = "") -> Prompt:
    turns = [Message("system", system)] if system else []
    return Prompt(id, (*turns, Message("user", text)), meta={"reference": "hidden-reference"})


def questions(count: int = 3, size: int = 2, campaign: str = "pilot") -> list[Item]:
    return [
        make_item(
            asked(f"What is {i} plus {i}?", id=f"p{i}"),
            [said(f"It is {2 * i + k}, as answer {'abcdefghi'[k]}.") for k in range(size)],
            campaign=campaign,
        )
        for i in range(count)
    ]  # fmt: skip


@cache
def _blank() -> bytes:
    """An empty store; making one runs the migrations, which takes longer than a test."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blank.db"
        Store.open(file).close()
        return file.read_bytes()


def write_store(
    file: Path,
    items: Sequence[Item] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    people: Sequence[str] = ("ann", "bob"),
    **about: Any,
) -> Store:
    """A store with one campaign, ``pilot``, with guidelines ``v1``."""
    file.write_bytes(_blank())
    store = Store.open(file)
    store.add_guideline(Guideline("v1", GUIDELINE))
    campaign: dict[str, Any] = {"overlap": 2, "guideline": "v1", **about}
    store.set_campaign(Campaign("pilot", settings=dict(settings or {}), **campaign))
    store.add_items(questions() if items is None else items)
    for name in people:
        store.add_labeller(name)
    return store


class Visitor:
    """Somebody in front of the app, signed in under a pseudonym if one is given."""

    def __init__(self, store: Store, name: str = "", role: str = "labeller", **app: Any) -> None:
        self.app = app.get("app") or make_app(store, app.get("campaign"))
        self.store = store
        self.client = TestClient(
            Guard(self.app), base_url="http://localhost", follow_redirects=False
        )
        self.session = app.get("token", "")
        if name:
            self.session = auth.issue(store, "session", name, role)  # type: ignore[arg-type]
        if self.session:
            self.client.cookies.set("gnomon-label-80", self.session)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def page(self, path: str = "/label") -> str:
        answered = self.get(path)
        assert answered.status_code == 200, answered.text
        return str(answered.text)

    def post(self, path: str, fields: Mapping[str, Any], **headers: str) -> Any:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        body = urlencode(fields, doseq=True)
        return self.client.post(path, content=body, headers=kind | headers)

    def answer(self, page: str | None = None, **fields: Any) -> Any:
        """Send the form of a page with what is filled in."""
        page = self.page() if page is None else page
        path, hidden = form_of(page)
        return self.post(path, hidden | {"action": "save"} | fields)


def form_of(page: str) -> tuple[str, dict[str, str]]:
    """Where a question's form goes, and its hidden fields."""
    form = page[page.index('id="ask"') - 200 :]
    path = re.search(r'action="(/label/[^"]+)"', form)
    assert path is not None
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
    return path[1], hidden


def item_of(page: str) -> str:
    return form_of(page)[0].removeprefix("/label/")


def labels(store: Store, **where: Any) -> list[Any]:
    return list(store.labels(**where))
