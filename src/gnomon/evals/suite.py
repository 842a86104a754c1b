"""What an eval is: a suite that measures one model, item by item, into one record.

A suite is one file with a class that derives from :class:`Suite` (or :class:`ItemSuite`, where each
item is measured by itself). It says what it reads and measures; what all of them share (options,
rows that a killed eval continues from, the record) is here and in :mod:`gnomon.evals.rows`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BeforeValidator, Field

from gnomon.errors import RunError
from gnomon.evals.rows import FAILED, Rows
from gnomon.files import fingerprint
from gnomon.judges.reading import UNREAD
from gnomon.recipe.spec import Checked
from gnomon.runs.evals import Calibration
from gnomon.runs.evals import Measured as Measured

if TYPE_CHECKING:
    from gnomon.evals.subject import Subject
    from gnomon.judges.protocol import Judge

Row = dict[str, Any]
Watch = Callable[[int, int], None]
"""Called with (items done, all items); it raises where the caller wants to stop."""
Tell = Callable[[str], None]
LONGEST = 400
"""Characters of an error that are shown."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Files = Annotated[list[str], BeforeValidator(_listed)]
"""One file or several."""


class Options(Checked):
    """What every suite takes."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w-]*([./][A-Za-z0-9_][\w-]*)*$",
        description="what the record is called; default: the suite's name and its file's",
    )
    data: Files = Field(default_factory=list, description="files of items")
    limit: int | None = Field(None, ge=1, description="only the first so many items")
    seed: int = Field(0, ge=0, description="of whatever is drawn")

    def resolved(self, window: int | None) -> dict[str, Any]:
        """Options whose default depends on the model, worked out for one that takes ``window``
        tokens; None where nothing is sampled."""
        return {}


class Work:
    """What a suite works with: the rows that are done, whom to tell, when to stop.

    Attributes:
        rows: see :class:`~gnomon.evals.rows.Rows`.
        folder: an empty place of the suite's own for what a library wants to write.
        tell: shows a line to the user.
        run: the folder of the run that the record is kept in, for its calibrations.
    """

    def __init__(
        self, rows: Rows, run: Path, watch: Watch | None = None, tell: Tell | None = None
    ) -> None:
        self.rows = rows
        self.run = run
        self.tell: Tell = tell or (lambda line: None)
        self._watch = watch

    @property
    def folder(self) -> Path:
        return self.rows.path.with_suffix(".work")

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` items are done. Whatever it raises stops the eval; rows stay."""
        if self._watch is not None:
            self._watch(done, total)


class Suite:
    """One eval.

    Class attributes:
        title: its name in the table of suites.
        summary: one line for lists and help.
        options_class: its options.
        opinion: its judge has an opinion that people may not share, so that a calibration is due.
        scores: names of all that it can measure, by which a gate is checked before anything runs;
            one that ends in ``/``, ``@`` or ``_`` stands for all that begin so. Empty where they
            depend on its files.

    Args:
        options: validated.
        base: the folder that relative paths start from.
    """

    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    options_class: ClassVar[type[Options]] = Options
    opinion: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any, base: Path) -> None:
        self.options = options
        self.base = base

    @property
    def name(self) -> str:
        """What its record is called: the suite's name, and that of the file that it reads."""
        if self.options.name:
            return str(self.options.name)
        title = self.title or type(self).__name__.lower()
        stems = [Path(file).name.split(".")[0] for file in self.options.data]
        return "/".join([title, "+".join(stems)]) if stems else title

    def check(self) -> None:
        """Refuse what cannot be measured, before a model is loaded.

        Raises:
            ConfigError, DataError: options or files that cannot be used.
        """
        self.files()

    def files(self) -> list[Path]:
        """The files that it reads, whose SHA-256 are in the record.

        Raises:
            DataError: one is missing.
        """
        from gnomon.evals.items import find_file

        return [find_file(file, self.base) for file in self.options.data]

    def prepare(self, subject: Subject) -> None:
        """Get ready for a model: whatever :meth:`facts` and :meth:`run` need of it.

        Raises:
            GnomonError: it cannot be measured.
        """
        return

    def facts(self) -> Mapping[str, Any]:
        """What changes the figures beside the options: versions of judges, other models."""
        return {}

    def believe(self, found: Measured, calibration: Calibration) -> None:
        """Add to what was measured what the calibration of its judge says: corrected scores."""
        return

    @abstractmethod
    def run(self, subject: Subject, work: Work) -> Measured:
        """Measure one model.

        Raises:
            GnomonError: it cannot be; rows that are done stay.
        """

    def settings(self, subject: Subject) -> dict[str, Any]:
        """Everything that changes the figures: the options, :meth:`facts`, and how the model is
        loaded where that is not as usual."""
        given: dict[str, Any] = self.options.model_dump(mode="json", exclude={"name", "data"})
        loaded = subject.loaded_as
        return {**given, **self.options.resolved(subject.window), **loaded, **self.facts()}

    def data(self) -> dict[str, Any]:
        """SHA-256 and size of each file, by its name (its path, where two have one name)."""
        files = self.files()
        names = [file.name for file in files]
        return {
            str(file) if names.count(file.name) > 1 else file.name: fingerprint(file)
            for file in files
        }


T = TypeVar("T")


class ItemSuite(Suite, Generic[T]):
    """A suite whose items are measured by themselves, some at a time.

    Each item gives one row, written as soon as it is known: a killed eval continues with the items
    that have none.
    """

    chunk: ClassVar[int] = 32
    """Items that are asked together."""
    _judge: Judge | None = None
    """Who judges the answers, once it is opened."""

    @abstractmethod
    def items(self) -> Sequence[T]:
        """What is asked, in order."""

    def drawn(self) -> list[T]:
        """Those of a run: the first ``limit``."""
        return list(self.items())[: self.options.limit]

    def id_of(self, item: T) -> str:
        """The item's id; of those that share one, as rows of two files of one name do, the later
        are told apart by their place (:func:`apart`)."""
        return str(item.id)  # type: ignore[attr-defined]

    @abstractmethod
    def ask(self, subject: Subject, items: Sequence[T], work: Work) -> list[Row]:
        """One row for each item, in order; ``{"error": reason}`` for one that failed."""

    @abstractmethod
    def measure(self, items: Sequence[T], rows: Sequence[Row]) -> Measured:
        """The scores of rows that did not fail, in the order of their items."""

    def request_of(self, item: T) -> str:
        """What the item asks, where other items may ask it too (the same prompt once more, in
        another form): in intervals they count as one. Empty where each asks something else."""
        return ""

    def needs_no_asking(self, row: Row) -> bool:
        """Whether the row was known without asking anybody, and does not show that anybody
        answers."""
        return False

    def judges(self) -> list[Judge]:
        """Whom it asks beside the model: what they cost is in its rows."""
        return [] if self._judge is None else [self._judge]

    def run(self, subject: Subject, work: Work) -> Measured:
        work.rows.told_again = any(judge.remembers for judge in self.judges())
        items = self.drawn()
        keys = apart([self.id_of(item) for item in items])
        todo = [(key, item) for key, item in zip(keys, items, strict=True)
                if not work.rows.has(key)]  # fmt: skip
        for first in range(0, len(todo), self.chunk):
            work.progress(len(items) - len(todo) + first, len(items))
            part = todo[first : first + self.chunk]
            rows = self.ask(subject, [item for _, item in part], work)
            named = zip(part, rows, strict=True)
            work.rows.add({"id": key, **self._asked(item), **row} for (key, item), row in named)
        work.progress(len(items), len(items))
        rows = [work.rows.get(key) for key in keys]
        good = [(item, row) for item, row in zip(items, rows, strict=True) if FAILED not in row]
        failed = [row for row in rows if FAILED in row]
        if not good or (failed and all(self.needs_no_asking(row) for _, row in good)):
            first_error = readable(str(failed[0][FAILED])) if failed else "there are no items"
            asked = f" that were asked (of {len(rows)})" if good else ""
            raise RunError(
                f"{self.name}: all {len(failed)} items{asked} failed. The first: {first_error}"
            )
        measured = self.measure([item for item, _ in good], [row for _, row in good])
        measured.tokens = measured.tokens or int(_summed(rows, "tokens"))
        measured.money = measured.money or _summed(rows, "money")
        measured.notes += self._cut(rows)
        measured.n = measured.n or len(good)
        measured.errors = len(failed)
        if failed:
            some = readable(str(failed[0][FAILED]))
            measured.notes.append(
                f"{measured.errors} of {len(rows)} items failed and are in no score; the first: "
                f"{some}"
            )
        measured.notes += self._unread(failed)
        return measured

    def _asked(self, item: T) -> Row:
        request = self.request_of(item)
        return {"request": request} if request else {}

    def _unread(self, failed: Sequence[Row]) -> list[str]:
        """In words, how many items failed since what the judge answered is no verdict."""
        unread = sum(UNREAD in str(row[FAILED]) for row in failed)
        if not unread:
            return []
        return [f"of {unread} items the judge's verdict could not be read, and was not guessed"]

    def _cut(self, rows: Sequence[Row]) -> list[str]:
        """In words, how many answers were judged that the model had not ended: rows count them as
        ``cut``."""
        cut = int(_summed(rows, "cut"))
        if not cut:
            return []
        return [
            f"{cut} answers were cut off before their end, and were judged as they are; "
            "--option max_new_tokens=N gives them more room"
        ]


def _summed(rows: Sequence[Row], name: str) -> float:
    """What the rows have under a name together, where it is a number."""
    values = (row.get(name) for row in rows)
    return float(sum(v for v in values if isinstance(v, int | float)))


def apart(ids: Sequence[str]) -> list[str]:
    """The ids, the second of a name as ``NAME (2)`` and so on: an item lost is a wrong figure."""
    known, taken, found = Counter[str](), set(ids), []
    for id in ids:
        known[id] += 1
        new = id if known[id] == 1 else f"{id} ({known[id]})"
        while new != id and new in taken:
            new += "'"
        taken.add(new)
        found.append(new)
    return found


def readable(text: str) -> str:
    """A text that may hold what a model wrote, as one printable line that is not too long."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + "…"
