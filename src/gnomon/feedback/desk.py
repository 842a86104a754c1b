"""What the pages of the labelling app share: the store, the templates, who may see what."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from gnomon.console import visible
from gnomon.feedback.auth import Paces, Refused, Who
from gnomon.feedback.store import Campaign, Store


@dataclass(frozen=True)
class Notice:
    """A line above a page: plain, ``good`` or ``bad``."""

    words: str
    kind: str = ""


@cache
def templates() -> Environment:
    """The templates of the app; all text in them is escaped."""
    made = Environment(
        loader=PackageLoader("gnomon.feedback"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["visible"] = visible
    return made


class Desk:
    """What all pages share.

    Args:
        store: where everything is kept.
        campaign: the only one that is served; None for all.
        clips: the folder that the videos of clips are in; None where there are none.

    Attributes:
        paces: of every labeller's requests.
        failures: of links that let nobody in, by address.
        admin: whether there are pages for those who run the collection, at ``/admin``.
    """

    def __init__(
        self, store: Store, campaign: str | None = None, clips: Path | None = None
    ) -> None:
        self.store = store
        self.campaign = campaign
        self.clips = clips
        self.paces = Paces(burst=200, rate=10)
        self.failures = Paces(burst=10, rate=1 / 30)
        self.locks = Locks()
        self.admin = False

    def page(
        self,
        template: str,
        who: Who | None = None,
        status: int = 200,
        notices: tuple[Notice, ...] = (),
        **shown: Any,
    ) -> HTMLResponse:
        """A template as an answer; texts in it are escaped."""
        made = templates().get_template(template)
        text = made.render(who=who, notices=notices, admin_pages=self.admin, **shown)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def campaigns(self, who: Who) -> list[Campaign]:
        """The campaigns that somebody may see."""
        return [
            campaign
            for campaign in self.store.campaigns()
            if self.campaign in (None, campaign.name) and who.campaign in (None, campaign.name)
        ]

    def campaign_of(self, who: Who, name: str) -> Campaign:
        """One of them.

        Raises:
            Refused: there is none of this name that they may see.
        """
        for campaign in self.campaigns(who):
            if campaign.name == name:
                return campaign
        raise Refused(f"There is no campaign {name!r} for you here.", 404)


class Locks:
    """A lock for each of some names."""

    def __init__(self, count: int = 256) -> None:
        self._locks = [threading.Lock() for _ in range(count)]

    def of(self, name: str) -> threading.Lock:
        return self._locks[hash(name) % len(self._locks)]


def desk_of(request: Request) -> Desk:
    """The desk of the app that a request came to, as a dependency."""
    desk: Desk = request.app.state.desk
    return desk


OnDesk = Annotated[Desk, Depends(desk_of)]
"""The parameter of a page's function that is the desk."""
