"""``gnomon chat``: talk to a model in the terminal, or to two, blind if asked."""

from __future__ import annotations

import contextlib
import getpass
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gnomon.console import complain, err, out, say, show, visible
from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.plugins import did_you_mean
from gnomon.records import Message

if TYPE_CHECKING:
    from gnomon.view.ballots import Ballots
    from gnomon.view.talk import Reply, Sampling, Speaker

NARROW = 80
"""Terminals of fewer columns show two answers one below the other."""
COMMANDS = {
    "/reset": "forget the conversation and begin anew",
    "/system TEXT": "give the model a system message from now on; without TEXT, none",
    "/temperature X": "0 is greedy; higher is more varied",
    "/tokens N": "most tokens of an answer",
    "/save FILE": "add the conversation to a .jsonl file that gnomon reads as demonstrations",
    "/help": "these commands",
    "/quit": "end, as Ctrl-D does",
}
CHOICES = ("a", "b", "tie", "skip")
Chosen = Literal["a", "b", "tie", "skip"]
BOTH_WAYS = "a message that begins with a slash: write two (//)"


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's folder (its last policy), a stage's, any model's in the Hugging Face "
            "format, tunnel, or a hub id."
        ),
    ],
    other: Annotated[
        str | None,
        typer.Argument(help="A second one, side by side; of the same run also base or a stage."),
    ] = None,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind", help="Hide which is which, ask after each answer, keep each choice."
        ),
    ] = False,
    stage: Annotated[
        str | None, typer.Option(help="Of a run: which stage's model; base is the start model.")
    ] = None,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    seed: Annotated[int, typer.Option(help="Another number gives other answers.")] = 0,
    who: Annotated[
        str | None, typer.Option(help="With --blind: who chooses; default: the user's name.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="With --blind: KEEP/preferences gets the choices; default: the run's."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template by name, where the model has none.")
    ] = None,
) -> None:
    """Talk to a model, or to two side by side.

      gnomon chat runs/mine                   the last policy of a run

      gnomon chat runs/mine base --blind      against its start model: which is better?

      echo "What is RLHF?" | gnomon chat runs/mine --temperature 0

    With --blind both answer one conversation in random order; you say a, b, tie or skip, the choice
    is kept at once as a preference row that a reward model or DPO can train on, and the chosen
    answer continues the conversation. Which model was which is said at the end. Where input is no
    terminal, each line is a message (with --blind: a message, then a choice). See
    docs/chat-export.md.
    """
    from gnomon.stages.stage import pick_device
    from gnomon.view.talk import Sampling, ballots, open_speakers

    if blind and other is None:
        raise ConfigError("--blind compares two models: name the other, as in gnomon chat A B")
    if not blind and (who or keep):
        raise ConfigError("--who and --keep go with --blind, which asks and keeps choices")
    how = {"device": str(pick_device(device)), "dtype": dtype, "template": template}
    speakers, folder = open_speakers(model, other, stage, **how)
    votes = ballots(keep or folder, *speakers) if blind else None
    session = Session(
        speakers, Sampling(temperature, 1.0, max_new_tokens, seed), system, votes, who or _user()
    )
    session.set(temperature=temperature)
    for speaker in speakers:
        with err.status(Text(f"loading {speaker.label}")):
            speaker.load()
    session.run()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user's number
        return "unknown"


class _NoChoiceError(Exception):
    """The question which answer is better was left with Ctrl-C or the end of input."""


class Session:
    """What is said, and with whom.

    Args:
        speakers: one model or two.
        ballots: where blind choices go; None where nobody chooses.
        who: chooses.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker],
        sampling: Sampling,
        system: str,
        ballots: Ballots | None,
        who: str,
    ) -> None:
        self.speakers = speakers
        self.sampling = sampling
        self.system = system
        self.ballots = ballots
        self.who = who
        self.turns: list[list[Message]] = [[] for _ in speakers]
        self.skipped = 0
        self.terminal = sys.stdin.isatty()
        self._line = 0
        self._order = random.SystemRandom()

    # -- lines in -----------------------------------------------------------------------------

    def run(self) -> None:
        """Answer every line until the last, then say what was chosen."""
        if self.terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - input() then has a history
            names = " and ".join(visible(speaker.label) for speaker in self.speakers)
            say(f"{names}. /help lists the commands; Ctrl-D ends.")
        while (line := self._read("you> ")) is not None:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not self._command(line):
                        break
                elif line.strip():
                    self._turn(line.removeprefix("/") if line.startswith("//") else line)
            except GnomonError as error:
                if not self.terminal:
                    raise type(error)(f"line {self._line} of the input: {error}") from error
                complain("error", "red", str(error))
            except _NoChoiceError:
                self._note("no choice was made: your last message is taken back")
                if not self.terminal:
                    break
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                say("\nstopped; your last message is taken back", "dim")
        self._sum_up()

    def _read(self, cue: str) -> str | None:
        """The next line; None at the end."""
        self._line += 1
        try:
            if self.terminal:
                return input(cue)
            line = sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            say("")
            return None
        except UnicodeDecodeError as error:
            raise DataError(f"line {self._line} of the input is not UTF-8 ({error})") from error
        return line.rstrip("\r\n") if line else None

    def _command(self, line: str) -> bool:
        """Do what a line that begins with a slash asks for; False to end."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        known: dict[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/temperature": lambda x: self.set(temperature=_number(name, x, float)),
            "/tokens": lambda x: self.set(max_new_tokens=_number(name, x, int)),
            "/save": self._save,
            "/help": lambda _: _help(),
        }
        if name in ("/quit", "/exit"):
            return False
        if name not in known:
            near = did_you_mean(name, [*known, "/quit"])
            raise ConfigError(f"unknown command {visible(name)}; {near}. For {BOTH_WAYS}")
        known[name](rest)
        return True

    def set(self, **changes: float) -> None:
        """Change how answers are sampled.

        Raises:
            ConfigError: no distribution can be made of it.
        """
        from gnomon.rollout.protocol import SamplingParams
        from gnomon.rollout.sampling import check_params

        new = replace(self.sampling, **changes)  # type: ignore[arg-type]
        check_params(SamplingParams(new.max_new_tokens, new.temperature, new.top_p))
        self.sampling = new

    def _reset(self, _: str) -> None:
        self.turns = [[] for _ in self.speakers]

    def _system(self, text: str) -> None:
        self.system = text

    def _save(self, name: str) -> None:
        from gnomon.files import append_line

        if not name:
            raise ConfigError("/save needs a file, as in /save chats.jsonl")
        if not any(self.turns):
            raise ConfigError("nothing has been said yet: there is no conversation to save")
        try:
            file = Path(name).expanduser()
        except RuntimeError as error:  # ~somebody who is not there
            raise ConfigError(f"/save {name}: {error}; give the folder in full") from error
        for speaker, turns in zip(self.speakers, self.turns, strict=True):
            row: dict[str, object] = {"messages": [asdict(m) for m in self._with_system(turns)]}
            if self.ballots is None:
                row["model"] = speaker.key
            text = json.dumps(row, ensure_ascii=False)
            append_line(file, text.encode("utf-8", "replace"))
            if self.ballots is not None:
                break  # both have the same conversation
        if self.terminal:
            say(f"added to {name}", "dim")

    # -- answers out --------------------------------------------------------------------------

    def _with_system(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        return (*((Message("system", self.system),) if self.system else ()), *turns)

    def _turn(self, text: str) -> None:
        asked = Message("user", text)
        if len(self.speakers) == 1:
            replies = [self._stream(self.speakers[0], [*self.turns[0], asked])]
        else:
            replies = [
                self._wait(speaker, [*turns, asked])
                for speaker, turns in zip(self.speakers, self.turns, strict=True)
            ]
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        if self.ballots is not None:
            replies = [self._choose(asked, replies, self.ballots)] * 2
        elif len(replies) == 2:
            self._beside([s.label for s in self.speakers], replies)
        for turns, reply in zip(self.turns, replies, strict=True):
            turns += [asked, Message("assistant", reply.text)]

    def _stream(self, speaker: Speaker, turns: Sequence[Message]) -> Reply:
        """One model's answer, shown as it is written."""

        def more(piece: str) -> None:
            out.print(Text(visible(piece)), end="", soft_wrap=True)
            out.file.flush()

        reply = speaker.answer(self._with_system(turns), self.sampling, more)
        say("")
        if not reply.finished:
            self._note(_cut(reply))
        return reply

    def _wait(self, speaker: Speaker, turns: Sequence[Message]) -> Reply:
        """One of two models' answers; how long each takes says nothing while they are hidden."""
        label = "answering" if self.ballots is not None else f"{speaker.label} answers"
        with err.status(Text(label)):
            return speaker.answer(self._with_system(turns), self.sampling)

    def _beside(self, labels: Sequence[str], replies: Sequence[Reply]) -> None:
        """Two answers, side by side where there is room."""
        if not self.terminal:
            for label, reply in zip(labels, replies, strict=True):
                say(f"[{label}]")
                say(reply.text)
            return
        panels = [
            Panel(
                Text(visible(reply.text)),
                title=Text(visible(label)),
                subtitle=None if reply.finished else Text(_cut(reply)),
            )
            for label, reply in zip(labels, replies, strict=True)
        ]
        if out.width < NARROW:
            show(Group(*panels))
            return
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*panels)
        show(grid)

    # -- blind --------------------------------------------------------------------------------

    def _choose(self, asked: Message, replies: Sequence[Reply], ballots: Ballots) -> Reply:
        """Show both in random order, keep the choice, and give the answer that goes on."""
        from gnomon.view.sides import Said, pair

        mine_first = bool(self._order.getrandbits(1))
        shown = [*replies] if mine_first else [*reversed(replies)]
        self._beside(CHOICES[:2], shown)
        if shown[0].text.strip() == shown[1].text.strip():
            self._note("both answered the same: there is nothing to choose")
            return shown[0]
        if not all(reply.text.strip() for reply in shown):
            self._note("one answer is empty, which no stage can train on: there is no choice")
            return max(shown, key=lambda reply: len(reply.text.strip()))
        begun = time.monotonic()
        choice = self._ask()
        turns = self._with_system([*self.turns[0], asked])
        mine, others = (Said(asked.content, reply.text, turns=turns) for reply in replies)
        votes: dict[Chosen, Literal["1", "2", "tie", "skip"]] = {
            "a": "1", "b": "2", "tie": "tie", "skip": "skip",
        }  # fmt: skip
        seconds = time.monotonic() - begun
        kept = ballots.choose(pair(others, mine), mine_first, votes[choice], self.who, seconds)
        if not kept:
            self._note("you chose between these two answers before: that choice stays")
        self.skipped += choice == "skip"
        return shown[1] if choice == "b" else shown[0]

    def _ask(self) -> Chosen:
        while True:
            line = self._read("a, b, tie or skip> ")
            if line is None:
                raise _NoChoiceError
            said = line.strip().lower()
            if said in CHOICES:
                return cast(Chosen, said)
            if not self.terminal:
                raise DataError(
                    f"{visible(said)!r} is no choice: with --blind each message is followed by a "
                    "line with a, b, tie or skip"
                )
            say("type a, b, tie or skip")

    def _sum_up(self) -> None:
        """What was chosen in all, which unblinds."""
        from gnomon.report.format import measured

        if self.ballots is None:
            return
        result = self.ballots.outcome()
        for problem in result.problems:
            complain("file", "yellow", problem)
        n = result.wins + result.losses + result.ties
        if not n:
            say(f"no choice was made ({self.skipped} skipped); nothing is kept")
            return
        say(
            f"{visible(result.b)} was preferred to {visible(result.a)} in {measured(result.share)} "
            f"of all choices so far, ties as halves, 95% interval ({result.wins} won, "
            f"{result.losses} lost, {result.ties} tied; {self.skipped} skipped now)"
        )
        say(f"kept in {self.ballots.file}; a reward model trains on it with data: {{path: FILE}}")

    def _note(self, text: str) -> None:
        err.print(Text(text, "dim"), soft_wrap=True)


def _cut(reply: Reply) -> str:
    return f"cut off after {reply.tokens} tokens; /tokens gives it more"


def _number(command: str, text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{command} needs a number, as in {command} 1") from None


def _help() -> None:
    table = Table.grid(padding=(0, 2))
    for name, meaning in COMMANDS.items():
        table.add_row(Text(name), Text(meaning))
    table.add_row("//", Text(BOTH_WAYS))
    show(table)
