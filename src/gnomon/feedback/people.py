"""Labellers: their pseudonyms and roles, the tokens that let them in, and what they told about
themselves, which one table holds and which can be given out or erased."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.database import Database
from gnomon.feedback.records import LabellerKind
from gnomon.feedback.rows import check_name, now
from gnomon.plugins import nearest

Role = Literal["labeller", "adjudicator", "admin"]


@dataclass(frozen=True)
class LabellerInfo:
    """Somebody who labels: a person, a model, a program or a simulation.

    Attributes:
        name: a pseudonym.
        active: whether they are still given items.
    """

    name: str
    kind: LabellerKind = "person"
    role: Role = "labeller"
    active: bool = True
    at: str = ""


@dataclass(frozen=True)
class Personal:
    """What a labeller agreed to tell about themselves.

    Attributes:
        demographics: field by field, for the card of the data.
        consent: what they agreed to, each with when.
    """

    name: str = ""
    contact: str = ""
    demographics: Mapping[str, Any] = field(default_factory=dict)
    consent: Mapping[str, Any] = field(default_factory=dict)
    at: str = ""


@dataclass(frozen=True)
class Access:
    """What a token lets somebody do.

    Attributes:
        campaign: the only one that it opens; None for all.
        used: when it was used up, where it is for one use.
    """

    labeller: str
    role: Role
    campaign: str | None
    at: str
    expires: str | None
    used: str | None


class People:
    """The labellers of a store."""

    def __init__(self, database: Database) -> None:
        self.db = database

    def add(self, name: str, kind: LabellerKind = "person", role: str = "labeller") -> None:
        """Add a labeller; one that is there with the same kind gets the role.

        Raises:
            DataError: a name that cannot be, or one that is there with another kind.
        """
        check_name(name, "labeller")
        for given, known, what in ((kind, LabellerKind, "kind"), (role, Role, "role")):
            if given not in get_args(known):
                raise DataError(
                    f"labeller {name!r}: unknown {what} {given!r}; {', '.join(get_args(known))}"
                )
        with self.db.write() as connection:
            known_kind = connection.scalar(
                sa.select(t.labellers.c.kind).where(t.labellers.c.name == name)
            )
            if known_kind is None:
                _insert(connection, [name], kind, role)
                return
            if known_kind != kind:
                raise DataError(f"labeller {name!r} is a {known_kind} already, not a {kind}")
            self._set(connection, name, role=role)

    def set_active(self, name: str, active: bool) -> None:
        """Give somebody items again, or no more.

        Raises:
            DataError: no such labeller.
        """
        with self.db.write() as connection:
            self._set(connection, name, active=active)

    def _set(self, connection: Connection, name: str, **values: Any) -> None:
        known_labellers(connection, [name], None)
        connection.execute(t.labellers.update().where(t.labellers.c.name == name).values(values))

    def all(self) -> list[LabellerInfo]:
        """Everyone, oldest first."""
        found = t.labellers.select().order_by(t.labellers.c.at, t.labellers.c.name)
        with self.db.read() as connection:
            return [LabellerInfo(**row) for row in connection.execute(found).mappings()]

    # -- tokens -----------------------------------------------------------------------------------

    def add_token(
        self,
        name: str,
        role: Role = "labeller",
        *,
        campaign: str | None = None,
        minutes: float | None = None,
    ) -> str:
        """A new secret that lets a labeller in; only its SHA-256 is kept.

        Args:
            campaign: the only one that it opens.
            minutes: how long it is good for.

        Raises:
            DataError: no such labeller.
        """
        secret = secrets.token_urlsafe(32)
        row = {
            "digest": _digest(secret),
            "labeller": name,
            "role": role,
            "campaign": campaign,
            "at": now(),
            "expires": None if minutes is None else now(minutes),
        }
        with self.db.write() as connection:
            known_labellers(connection, [name], None)
            connection.execute(t.access.insert(), [row])
        return secret

    def access(self, secret: str) -> Access | None:
        """What a token opens; None for one that is unknown, expired or revoked, or whose owner is
        not active."""
        with self.db.read() as connection:
            return _access(connection, _digest(secret))

    def use_token(self, secret: str) -> Access | None:
        """Use up a token: what it opens the first time, and None ever after."""
        key = _digest(secret)
        first = sa.and_(t.access.c.digest == key, t.access.c.used.is_(None))
        with self.db.write() as connection:
            found = _access(connection, key)
            if found is None:
                return None
            fresh = connection.execute(t.access.update().where(first).values(used=now())).rowcount
            return found if fresh else None

    def revoke(self, *, secret: str | None = None, labeller: str | None = None) -> int:
        """Revoke a token, or all of a labeller's; how many there were."""
        same = t.access.c.labeller == labeller
        if secret is not None:
            same = t.access.c.digest == _digest(secret)
        with self.db.write() as connection:
            return _revoke(connection, same)

    # -- personal data ----------------------------------------------------------------------------

    def set_personal(self, name: str, personal: Personal) -> None:
        """Keep what somebody agreed to tell, in place of what they told before.

        Raises:
            DataError: no such labeller; or something is told and no consent given.
        """
        told = personal.name or personal.contact or personal.demographics
        if told and not personal.consent:
            raise DataError(
                f"labeller {name!r}: personal data without consent; say what they agreed to and "
                "when (consent)"
            )
        row = {
            "labeller": name,
            "name": personal.name,
            "contact": personal.contact,
            "demographics": dict(personal.demographics),
            "consent": dict(personal.consent),
            "at": personal.at or now(),
        }
        with self.db.write() as connection:
            known_labellers(connection, [name], None)
            connection.execute(t.personal.delete().where(t.personal.c.labeller == name))
            connection.execute(t.personal.insert(), [row])

    def personal(self, name: str) -> Personal | None:
        """What somebody told about themselves, or None."""
        found = t.personal.select().where(t.personal.c.labeller == name)
        with self.db.read() as connection:
            row = connection.execute(found).mappings().first()
        return None if row is None else Personal(**{k: row[k] for k in row if k != "labeller"})

    def demographics(self, least: int = 5) -> dict[str, dict[str, int]]:
        """How many labellers gave each answer, by field; answers of fewer than ``least`` people are
        counted together, so that nobody can be told apart, and left out if still too few."""
        counts: dict[str, dict[str, int]] = {}
        with self.db.read() as connection:
            for told in connection.execute(sa.select(t.personal.c.demographics)).scalars():
                for name, answer in told.items():
                    by_answer = counts.setdefault(name, {})
                    by_answer[str(answer)] = by_answer.get(str(answer), 0) + 1
        return {name: _coarse(by_answer, least) for name, by_answer in counts.items()}

    def everything_about(self, name: str) -> dict[str, Any]:
        """All that the store holds about one labeller, for them to have (GDPR, article 15).

        Raises:
            DataError: no such labeller.
        """
        with self.db.read() as connection:
            known_labellers(connection, [name], None)

            def rows(table: sa.Table, leave_out: tuple[str, ...] = ()) -> list[dict[str, Any]]:
                column = table.c.name if table is t.labellers else table.c.labeller
                found = connection.execute(table.select().where(column == name)).mappings()
                return [{k: v for k, v in row.items() if k not in leave_out} for row in found]

            return {
                "labeller": rows(t.labellers)[0],
                "personal": rows(t.personal, ("labeller",)),
                "labels": rows(t.labels, ("labeller", "seq")),
                "assignments": rows(t.assignments, ("labeller",)),
                "drafts": rows(t.drafts, ("labeller",)),
                "tokens": rows(t.access, ("labeller", "digest")),
                "costs": rows(t.costs, ("labeller", "seq")),
                "erasures": rows(t.erasures, ("labeller", "seq")),
            }

    def erase(self, name: str) -> dict[str, int]:
        """Erase what is personal of one labeller (GDPR, article 17): their row of ``personal``,
        drafts, tokens and the comments on their labels. The labels stay, under the pseudonym, and
        they are given no more items. That it was done, and when, is noted.

        Returns:
            How many of each were erased.

        Raises:
            DataError: no such labeller.
        """
        with self.db.write() as connection:
            known_labellers(connection, [name], None)
            note = {"labeller": name, "what": ["personal", "drafts", "tokens", "comments"]}
            connection.execute(t.erasures.insert(), [note | {"at": now()}])
            erased = {
                table.name: connection.execute(
                    table.delete().where(table.c.labeller == name)
                ).rowcount
                for table in (t.personal, t.drafts, t.access)
            }
            commented = sa.and_(t.labels.c.labeller == name, t.labels.c.comment != "")
            emptied = t.labels.update().where(commented).values(comment="")
            erased["comments"] = connection.execute(emptied).rowcount
            self._set(connection, name, active=False)
        self.db.overwrite_erased()
        return erased


def known_labellers(
    connection: Connection, names: Iterable[str], kind: LabellerKind | None
) -> None:
    """Check that labellers are known; with a kind, add those that are not.

    Raises:
        DataError: some are not, with how many, who and the cure.
    """
    wanted = dict.fromkeys(names)
    found = sa.select(t.labellers.c.name).where(t.labellers.c.name.in_(wanted))
    known = set(connection.execute(found).scalars())
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    if kind is not None:
        for name in missing:
            check_name(name, "labeller")
        _insert(connection, missing, kind, "labeller")
        return
    everyone = list(connection.execute(sa.select(t.labellers.c.name)).scalars())
    near = nearest(missing[0], everyone)
    more = ", ..." if len(missing) > 5 else ""
    raise DataError(
        f"{len(missing)} unknown labellers: {', '.join(map(repr, missing[:5]))}{more}. "
        f"{near + ' ' if near else ''}Add them (gnomon label people STORE NAME), or import "
        "with --add-labellers"
    )


def _insert(connection: Connection, names: Iterable[str], kind: str, role: str) -> None:
    row = {"kind": kind, "role": role, "active": True, "at": now()}
    connection.execute(t.labellers.insert(), [{"name": name, **row} for name in names])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _access(connection: Connection, key: str) -> Access | None:
    a = t.access.c
    found = sa.select(a.labeller, a.role, a.campaign, a.at, a.expires, a.used)
    found = found.join(t.labellers, t.labellers.c.name == a.labeller)
    found = found.where(a.digest == key, a.revoked.is_(None), t.labellers.c.active)
    row = connection.execute(found).mappings().first()
    if row is None or (row["expires"] is not None and row["expires"] < now()):
        return None
    return Access(**row)


def _revoke(connection: Connection, same: sa.ColumnElement[bool]) -> int:
    open_ones = t.access.update().where(same, t.access.c.revoked.is_(None))
    return connection.execute(open_ones.values(revoked=now())).rowcount


def _coarse(counts: Mapping[str, int], least: int) -> dict[str, int]:
    kept = {answer: n for answer, n in counts.items() if n >= least}
    other = sum(counts.values()) - sum(kept.values())
    return kept | ({"other": other} if other >= least else {})
