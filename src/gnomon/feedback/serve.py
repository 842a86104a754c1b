"""Serving the labelling app, and the links that let people in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args
from urllib.parse import urlencode, urlsplit

from gnomon.errors import ConfigError, DataError
from gnomon.feedback.clips import videos_beside
from gnomon.feedback.opening import open_store
from gnomon.plugins import did_you_mean
from gnomon.web.guard import Guard
from gnomon.web.server import Server, listen


class LabelServer(Server):
    """Serves the pages over a store until it is interrupted.

    Args:
        where: the store: a file or a URL.
        campaign: the only one that is served; None for all.
        host, port: where to listen; port 0 takes a free one.
        names: what else the server is called in a ``Host`` header.
        clips: the folder that the videos of clips are in; None: beside a store in a file.

    Attributes:
        store: the store, open as long as this is.
        links: of each role, what to open.

    Raises:
        ConfigError: it cannot listen there, or a package is missing.
        DataError: there is no such store or campaign.
    """

    def __init__(
        self,
        where: str,
        campaign: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Sequence[str] = (),
        clips: Path | None = None,
    ) -> None:
        self.store = open_store(where)
        from gnomon.feedback import auth  # after the store has said which packages are missing
        from gnomon.feedback.app import make_app

        if campaign is not None:
            self.store.campaign(campaign)
        app = make_app(self.store, campaign, clips or videos_beside(where))
        guarded = Guard(app, [host, *names], command="gnomon label serve")
        super().__init__(guarded, listen(host, port))
        self.store.add_labeller(auth.NEWCOMERS, "program")
        token = auth.issue(self.store, "join", auth.NEWCOMERS, campaign=campaign)
        self.links = [("labellers", link(self.address, token))]
        for role in ("adjudicator", "admin"):
            self.store.add_labeller(role, "person", role)
            token = auth.issue(self.store, "link", role, role, campaign=campaign)
            self.links.append((role, link(self.address, token)))


def link(address: str, token: str) -> str:
    """What somebody opens to be let in."""
    return f"{address.rstrip('/')}/join?{urlencode({'token': token})}"


def invitation(
    where: str,
    name: str,
    role: str = "labeller",
    *,
    campaign: str | None = None,
    many: bool = False,
    days: float = 14,
    url: str,
) -> str:
    """A link for one person, who is added to the store if they are new.

    Args:
        many: it works more than once.
        url: the server's address.

    Raises:
        ConfigError: an address or a role that cannot be.
        DataError: no such store or campaign, or a pseudonym that cannot be.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise ConfigError(f"--url {url!r} is no address: give one as in https://label.example.org")
    with open_store(where) as store:
        from gnomon.feedback import auth
        from gnomon.feedback.people import Role

        if role not in get_args(Role):
            raise ConfigError(f"--role {role}: {did_you_mean(role, get_args(Role))}")
        if campaign is not None:
            store.campaign(campaign)
        store.add_labeller(name, "person", role)
        kind: auth.TokenKind = "link" if many else "once"
        return link(url, auth.issue(store, kind, name, role, campaign=campaign, days=days))  # type: ignore[arg-type]


def revoke_all(where: str, name: str) -> int:
    """End somebody's links and sessions; how many there were.

    Raises:
        DataError: no such store, or nobody of that name.
    """
    with open_store(where) as store:
        known = store.labellers()
        if name not in known:
            raise DataError(
                f"{store.where}: nobody is called {name!r}; {did_you_mean(name, known)}"
            )
        return store.people.revoke(labeller=name)
