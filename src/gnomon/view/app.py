"""The pages of ``gnomon view`` by their addresses."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

import gnomon
from gnomon.errors import DataError, GnomonError
from gnomon.files import first_line
from gnomon.report.html import environment
from gnomon.report.samples import cut
from gnomon.runs.read import StageView
from gnomon.view import pages
from gnomon.view.ballots import Ballots, order
from gnomon.view.library import Library, Opened
from gnomon.view.samples import ORDERS, Filter, Samples
from gnomon.view.sides import contest, sides
from gnomon.web.forms import read_form

LONGEST_NAME = 60
_LARGEST_FORM = 16 * 1024
_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


class Viewer:
    """Everything that the pages share.

    Args:
        folder: of runs, or of one.
    """

    def __init__(self, folder: Path) -> None:
        self.library = Library(folder)
        self.samples = Samples()
        self._rows: dict[str, tuple[str, pages.RunRow]] = {}
        self.secret = secrets.token_bytes(32)
        self.csrf = secrets.token_urlsafe(24)
        self._templates = environment("gnomon.view")
        self._templates.globals.update(version=gnomon.__version__, folder=str(folder))

    def page(self, template: str, status: int = 200, **shown: Any) -> HTMLResponse:
        """A template as an answer."""
        return HTMLResponse(self._templates.get_template(template).render(**shown), status)

    # -- runs -----------------------------------------------------------------------------------

    def runs(self, request: Request) -> Response:
        """Every run; the only one, where the folder is a run."""
        names = self.library.names()
        stamp = "-".join(self.library.stamp(name) for name in names)
        return self._live(
            request,
            stamp,
            lambda: self.page("runs.html.j2", rows=pages.run_rows(self.library, self._rows)),
        )

    def run(self, request: Request, name: str) -> Response:
        return self._live(
            request,
            self.library.stamp(name),
            lambda: self.page("run.html.j2", **pages.run_page(self.library.open(name))),
        )

    def stage(self, request: Request, name: str, stage: str) -> Response:
        def made() -> Response:
            opened, own = self._stage(name, stage)
            return self.page("stage.html.j2", **pages.stage_page(opened, own))

        return self._live(request, self.library.stamp(name), made)

    def _live(self, request: Request, stamp: str, made: Callable[[], Response]) -> Response:
        """A page, or that nothing has changed since the browser's copy of it."""
        tag = f'"{hmac.new(self.secret, stamp.encode(), "sha256").hexdigest()[:24]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        response = made()
        response.headers["ETag"] = tag
        return response

    def _stage(self, name: str, folder: str) -> tuple[Opened, StageView]:
        opened = self.library.open(name)
        for stage in opened.run.stages:
            if stage.folder.name == folder:
                return opened, stage
        raise DataError(f"run {name} has no stage {folder!r}")

    def compare(self, request: Request) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        metric = request.query_params.get("metric", "")
        return self.page("compare.html.j2", **pages.compare_page(self.library, names, metric))

    # -- samples --------------------------------------------------------------------------------

    def stage_samples(self, request: Request, name: str, stage: str) -> Response:
        opened, own = self._stage(name, stage)
        wanted, wrong = Filter.parse(request.query_params)
        page = self.samples.page(own.folder, own.info.status == "done", wanted)
        return self.page(
            "browse.html.j2", run=opened.run, stage=own, wanted=wanted, page=page,
            rows=pages.sample_rows(opened.run, own, page), orders=list(ORDERS),
            problems=[*page.problems, *wrong],
            stages=[s for s in opened.run.stages if _has_samples(s)],
        )  # fmt: skip

    def prompt(self, request: Request, name: str, stage: str) -> Response:
        opened, own = self._stage(name, stage)
        asked = request.query_params.get("sample", "")
        place = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 12 else -1
        shown = pages.history(opened.run, own, self.samples, place)
        return self.page("prompt.html.j2", run=opened.run, stage=own, **shown)

    # -- blind A/B ------------------------------------------------------------------------------

    def ab(self, request: Request) -> Response:
        """Choosing two sides, or the next pair of those that were chosen."""
        asked = request.query_params
        a, b, who = (asked.get(key, "").strip() for key in ("a", "b", "who"))
        found = sides(self.library, self.samples)
        problem = ""
        if a or b:
            try:
                if not who or len(who) > LONGEST_NAME:
                    raise DataError(f"give a pseudonym of 1 to {LONGEST_NAME} characters")
                return self._ask(a, b, who, contest(found, a, b))
            except DataError as error:
                problem = str(error)
        return self.page(
            "ab.html.j2", 400 if problem else 200, sides=list(found.values()), problem=problem,
            a=a, b=b, who=who, longest=LONGEST_NAME,
        )  # fmt: skip

    def _ask(self, a: str, b: str, who: str, between: Any) -> Response:
        ballots = Ballots(self.library.folder, between)
        done = ballots.answered(who)
        drawn = order(between.pairs, who, self.secret)
        left = [(pair, swapped) for pair, swapped in drawn if pair.id not in done]
        shown: dict[str, Any] = {
            "between": between, "total": len(drawn), "done": len(drawn) - len(left),
            "query": urlencode({"a": a, "b": b, "who": who}),
            "hidden": {"a": a, "b": b, "who": who, "csrf": self.csrf},
        }  # fmt: skip
        if not left:
            return self.page("ab_done.html.j2", file=ballots.file, **shown)
        pair, swapped = left[0]
        first, second = (pair.b, pair.a) if swapped else (pair.a, pair.b)
        shown["hidden"] |= {"pair": pair.id, "shown": f"{time.time():.3f}"}
        return self.page(
            "ab_ask.html.j2", prompt=cut(first.prompt), first=cut(first.response),
            second=cut(second.response), **shown,
        )  # fmt: skip

    def vote(self, form: Mapping[str, str]) -> Response:
        """Write a choice, or take the last one back, and go on to the next pair."""
        if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf.encode()):
            return self._wrong(
                "This page is older than the program that serves it. Nothing was written: go back, "
                "load the page again, and choose again.", 403)  # fmt: skip
        a, b, who = (form.get(key, "") for key in ("a", "b", "who"))
        if not 0 < len(who) <= LONGEST_NAME:
            raise DataError("a pseudonym is missing")
        between = contest(sides(self.library, self.samples), a, b)
        ballots = Ballots(self.library.folder, between)
        choice = form.get("choice", "")
        if choice == "undo":
            ballots.undo(who)
        elif choice in ("1", "2", "tie", "skip"):
            known = {pair.id: (pair, x) for pair, x in order(between.pairs, who, self.secret)}
            if form.get("pair") not in known:
                raise DataError("this pair is no longer there: the answers have changed")
            pair, swapped = known[form["pair"]]
            seconds = time.time() - _seconds(form.get("shown", ""))
            ballots.choose(pair, swapped, choice, who, seconds)  # type: ignore[arg-type]
        else:
            raise DataError(f"{choice!r} is no choice: 1, 2, tie, skip or undo")
        return RedirectResponse(f"/ab?{urlencode({'a': a, 'b': b, 'who': who})}", 303)

    def result(self, request: Request) -> Response:
        asked = request.query_params
        a, b, who = (asked.get(key, "") for key in ("a", "b", "who"))
        between = contest(sides(self.library, self.samples), a, b)
        ballots = Ballots(self.library.folder, between)
        return self.page(
            "ab_result.html.j2", outcome=ballots.outcome(), between=between, file=ballots.file,
            query=urlencode({"a": a, "b": b, "who": who}), who=who,
        )  # fmt: skip

    # -- errors ---------------------------------------------------------------------------------

    async def refused(self, request: Request, error: Exception) -> Response:
        """What can be said in words of something that a user can mend."""
        return self._wrong(str(error), 404 if isinstance(error, DataError) else 500)

    async def failed(self, request: Request, error: Exception) -> Response:
        """What nobody foresaw, in a line; the program goes on."""
        return self._wrong(
            f"This page could not be made ({type(error).__name__}: {first_line(error)}). "
            "The others are not touched by it.", 500)  # fmt: skip

    def _wrong(self, message: str, status: int) -> Response:
        return self.page("wrong.html.j2", status, message=message)


def _has_samples(stage: StageView) -> bool:
    return any((stage.folder / f"samples.{kind}").exists() for kind in ("parquet", "jsonl"))


def _seconds(text: str) -> float:
    """When a page was shown, as it says; now, where it does not."""
    try:
        value = float(text)
    except ValueError:
        return time.time()
    return value if 0 < value < 1e11 else time.time()


def static(name: str) -> Response:
    """The style or the script of the pages."""
    kind = name.rpartition(".")[2]
    texts = {
        "view.css": [("report", "report.css"), ("view", "view.css")],
        "view.js": [("view", "view.js")],
    }[name]
    parts = [files(f"gnomon.{room}").joinpath(f"templates/{file}") for room, file in texts]
    return Response("".join(p.read_text("utf-8") for p in parts), media_type=_KINDS[kind])


def make_app(folder: Path) -> FastAPI:
    """The pages over a folder of runs; see :class:`gnomon.web.guard.Guard` for who may see them.

    Raises:
        DataError: the folder is not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the one that your runs are in, as in runs")
    viewer = Viewer(folder)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages_by_path: Mapping[str, Callable[..., Response]] = {
        "/": viewer.runs,
        "/runs/{name}": viewer.run,
        "/runs/{name}/{stage}": viewer.stage,
        "/runs/{name}/{stage}/samples": viewer.stage_samples,
        "/runs/{name}/{stage}/prompt": viewer.prompt,
        "/compare": viewer.compare,
        "/ab": viewer.ab,
        "/ab/result": viewer.result,
    }
    for path, shown in pages_by_path.items():
        app.add_api_route(path, _html(shown), methods=["GET"], response_model=None)
    app.add_api_route("/ab", _form(viewer.vote), methods=["POST"], response_model=None)
    for name in ("view.css", "view.js"):
        app.add_api_route(f"/{name}", partial(static, name), methods=["GET"], response_model=None)
    app.add_exception_handler(GnomonError, viewer.refused)
    app.add_exception_handler(Exception, viewer.failed)
    return app


def _html(shown: Callable[..., Response]) -> Callable[[Request], Awaitable[Response]]:
    """A page whose arguments are the parts of its path, made outside the event loop."""

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(shown, request, **request.path_params)

    return endpoint


def _form(taken: Callable[[Mapping[str, str]], Response]) -> Callable[..., Awaitable[Response]]:
    """A form, no larger than any of ours."""

    async def endpoint(request: Request) -> Response:
        fields = await read_form(request, _LARGEST_FORM)
        if fields is None:
            return Response("the form is too large", 413)
        return await run_in_threadpool(taken, {key: values[-1] for key, values in fields.items()})

    return endpoint
