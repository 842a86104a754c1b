"""People as a judge by way of a store: a round's groups become items, the run pauses, and goes on
when enough labels are there.

``queue/round-001.json`` of the stage remembers which items a round asked about and, once it is
judged, what was made of the labels: a run that is killed and resumed later trains on the same
judgements, whatever was labelled meanwhile.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from gnomon.errors import DataError, Pending, RunError
from gnomon.feedback.records import Item, Label
from gnomon.feedback.verdicts import Verdict, lacking, verdicts
from gnomon.files import make_folder
from gnomon.judges.protocol import SKIPPED, Judge
from gnomon.recipe.load import validate_as
from gnomon.recipe.spec import Spec
from gnomon.records import Comparison, Cost, Group, Judgement, Prompt, Response, Score
from gnomon.runs.manifest import resume_command
from gnomon.runs.records import Record

if TYPE_CHECKING:
    from gnomon.feedback.store import Store

Kind = Literal["ranking", "rating", "approval"]


class PeopleOptions(Spec):
    """The options of ``builtin: people``."""

    store: str = Field(
        "labels.db", description="a file (beside the recipe), or postgresql://USER@HOST/DATABASE"
    )
    campaign: str | None = Field(None, description="of the items; RUN/STAGE by default")
    overlap: int = Field(1, ge=1, le=100, description="people who judge each prompt")
    guideline: str | None = Field(
        None, description="a Markdown file that people work by (beside the recipe)"
    )
    kind: Kind = Field("ranking", description="rank the responses, rate each, or good/bad each")
    votes: Literal["calibrated", "majority"] = Field(
        "calibrated",
        description="comparisons with the probability that people as calibrated against each other "
        "give them; or what most of them say",
    )


class Round(Record):
    """queue/round-NNN.json: the items of a round by id, and once it is judged what became of each.

    Attributes:
        campaign: where people are asked.
        asked: the items' ids.
        judged: verdicts by item; empty until all labels are there.
    """

    campaign: str = ""
    asked: list[str] = Field(default_factory=list)
    judged: dict[str, Verdict] = Field(default_factory=dict)


class PeopleJudge(Judge):
    """Asks people through a store's labelling app; see :class:`PeopleOptions`.

    With ``kind: ranking`` a judgement has comparisons, and as a response's score the share of them
    that it won; with ``rating`` and ``approval`` scores, the mean of what people gave it. Who
    judged, when, what they wrote and what it cost is in it. A prompt that was skipped by as many
    people as are asked has no comparison, or an error as its score.

    Args:
        base: the folder that relative files start from.
        folder: where rounds are remembered: STAGE/queue.
        options: see :class:`PeopleOptions`.

    Raises:
        ConfigError: options that cannot be used.
    """

    groupwise = True
    in_rounds = True

    def __init__(
        self, *, base: Path | None = None, folder: Path | None = None, **options: Any
    ) -> None:
        self.name = "people"
        self.options = validate_as(PeopleOptions, options, "people")
        self.folder = Path("queue") if folder is None else folder
        self.number = 1
        self._base = base or Path()
        importlib.import_module("gnomon.feedback.store")  # a package that is missing, and
        if self.options.guideline is not None:
            self._text()  # a file that is not there, are said before anything is sampled

    @property
    def store(self) -> str:
        """Where people are asked: a file's path, or a URL."""
        where = self.options.store
        return where if "://" in where else str(self._base / where)

    @property
    def campaign(self) -> str:
        """Which items of the store are this stage's."""
        stage = self.folder.absolute().parent
        run = stage.parent.parent.name if stage.parent.name == "stages" else ""
        return self.options.campaign or "/".join(filter(None, (run, stage.name)))

    @property
    def file(self) -> Path:
        """What is remembered of this round."""
        return self.folder / f"round-{self.number:03d}.json"

    def begin(self, round: int) -> None:
        """Begin a round; if people were asked about it before, their labels must be there.

        Raises:
            Pending: people were asked, and labels are missing.
            RunError: what was asked is not in the store any more.
        """
        self.number = round
        if self.file.is_file():
            self._verdicts(self._round())

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Ask about a round's groups, or return what people said of them.

        Raises:
            Pending: the labels are not there yet, or not all.
            RunError: the round was asked about other responses.
        """
        items = [self._item(group) for group in groups]
        asked = {item.id: item for item in items if item is not None}
        if self.file.is_file():
            known = self._round()
            if known.asked != list(asked):
                raise RunError(
                    f"{self.file} asks about other responses than the run now samples: the model, "
                    "the recipe, the software or the file has changed. Put it back as it was; or "
                    "remove it, and people are asked about this round again (labels of what is the "
                    "same are kept)."
                )
        else:
            self._ask(list(asked.values()))
            known = self._round()
        verdicts = self._verdicts(known) if asked else {}
        return [
            self._judgement(group, item, None if item is None else verdicts.get(item.id))
            for group, item in zip(groups, items, strict=True)
        ]

    # -- asking -----------------------------------------------------------------------------------

    def _item(self, group: Group) -> Item | None:
        """The group as an item: its different texts, and nothing that tells how they came about;
        None where there is nothing to compare."""
        from gnomon.feedback.identity import make_item

        texts = {response.text: response for response in group.responses}
        if len(texts) < (2 if self.options.kind == "ranking" else 1):
            return None
        own = group.prompt
        prompt = Prompt(own.id, own.messages, own.text, category=own.category)
        origin = {"campaign": self.campaign, "round": self.number}
        shown = [Response(response.messages) for response in texts.values()]
        return make_item(prompt, shown, campaign=self.campaign, origin=origin)

    def _ask(self, items: Sequence[Item]) -> None:
        """Put items into the store; what is there already stays as it is."""
        from gnomon.feedback.opening import open_store

        if items:
            with open_store(self.store, create=True) as store:
                self._set_up(store)
                store.add_items(items)
        make_folder(self.folder)
        asked = [item.id for item in items]
        Round(campaign=self.campaign, asked=asked).write(self.file)

    def _set_up(self, store: Store) -> None:
        """The campaign as the recipe has it; what an admin set besides is kept."""
        from gnomon.feedback.store import Campaign, Guideline

        known = {campaign.name: campaign for campaign in store.campaigns()}
        own = known.get(self.campaign, Campaign(self.campaign))
        guideline = own.guideline
        if self.options.guideline is not None:
            text = self._text()
            guideline = f"{Path(self.options.guideline).name} {_short_hash(text)}"
            store.add_guideline(Guideline(guideline, text))
        settings = {**own.settings, "ask": self.options.kind}
        changed = replace(own, overlap=self.options.overlap, guideline=guideline, settings=settings)
        if changed != own or self.campaign not in known:
            store.set_campaign(changed)

    def _text(self) -> str:
        file = self._base / str(self.options.guideline)
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataError(f"guideline {file} cannot be read: {error}") from error

    # -- reading what they said -------------------------------------------------------------------

    def _round(self) -> Round:
        try:
            return Round.read(self.file)
        except ValueError as error:
            raise RunError(
                f"{error}: it is no longer what the run wrote. Remove it, and people are asked "
                "about this round again (labels of what is the same are kept)."
            ) from error

    def _verdicts(self, known: Round) -> Mapping[str, Verdict]:
        """What people said of each item, kept once all of it is there.

        Raises:
            Pending: labels are missing.
            RunError: the store has not got the items.
        """
        if known.judged or not known.asked:
            return known.judged
        items, labels = self._read(known)
        missing = lacking(known.asked, labels, self.options.overlap)
        if missing:
            left = partial(self._left, known)
            raise Pending(self._request(known, missing), left)
        found = verdicts(items, labels, self.options.kind, self.options.votes)
        known.judged = {key: found[key] for key in known.asked}
        known.write(self.file)
        return known.judged

    def _read(self, known: Round) -> tuple[list[Item], list[Label]]:
        """All items of the campaign with their labels: people are calibrated on all."""
        from gnomon.feedback.opening import open_store

        with open_store(self.store) as store:
            items = list(store.items(known.campaign))
            labels = list(store.labels(known.campaign))
        gone = set(known.asked) - {item.id for item in items}
        if gone:
            raise RunError(
                f"{without_password(self.store)} has not got {len(gone)} of the {len(known.asked)} "
                f"items that round {self.number} asked about. Put the store back; or remove "
                f"{self.file}, and people are asked again."
            )
        return items, labels

    def _request(self, known: Round, missing: Mapping[str, int]) -> str:
        total = len(known.asked)
        what = f"{total} prompts wait for people"
        if len(missing) < total:
            what = f"{len(missing)} of {total} prompts still wait for people"
        where = without_password(self.store)
        return (
            f"round {self.number}: {what} ({sum(missing.values())} labels to give), in campaign "
            f"{known.campaign!r} of {where}. Let them in with\n"
            f"  gnomon label serve {shlex.quote(where)}\n"
            f"and when they are done resume with\n  {resume_command()}\n"
            "or have a run wait by itself: gnomon run ... --wait"
        )

    def _left(self, known: Round) -> str:
        """What is still missing, for who waits; empty once all of it is there."""
        missing = lacking(known.asked, self._read(known)[1], self.options.overlap)
        to_give = sum(missing.values())
        return f"{to_give} labels to give on {len(missing)} prompts" if missing else ""

    def _judgement(self, group: Group, item: Item | None, said: Verdict | None) -> Judgement:
        """What was said of an item as a judgement of its group; equal texts are compared as the
        first of them, and each has the score."""
        texts = [response.text for response in group.responses]
        if item is None or said is None:
            return Judgement(self.name, tuple(Score(0.5) for _ in texts), ())
        place = [texts.index(response.text) for response in item.responses]
        own = [response.text for response in item.responses]
        scores = tuple(_score(said.scores[own.index(text)]) for text in texts)
        compared = None
        if self.options.kind == "ranking":
            compared = tuple(
                Comparison(place[int(a)], place[int(b)], weight, tie=bool(tie), probability=p)
                for a, b, tie, weight, p in said.comparisons
            )
        cost = Cost(said.seconds, 0, said.money)
        return Judgement(self.name, scores, compared, said.version, cost, said.reason or None)


def _score(value: float | None) -> Score:
    return Score(value, error=SKIPPED if value is None else None)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def without_password(where: str) -> str:
    """A store as it may be shown and kept: a database's URL without its password."""
    parts = urlsplit(where)
    if "://" not in where or parts.password is None:
        return where
    return urlunsplit(parts._replace(netloc=re.sub(r":[^@]*@", "@", parts.netloc)))
