"""The pages: what runs here, what waits for release, the audit log, the policy. Each is made anew from journal and files."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fdn_worker import __version__
from fdn_worker.audit import known_head, own_files, own_signer
from fdn_worker.audit_text import latest, lines_of
from fdn_worker.errors import FdnError, SettingsError
from fdn_worker.journal import Journal
from fdn_worker.policy import lint
from fdn_worker.protocol import now
from fdn_worker.protocol.chain import Line, check
from fdn_worker.release import desk
from fdn_worker.release.desk import Waiting, safe
from fdn_worker.settings import WorkerSettings
from fdn_worker.standing import attempts, standing
from fdn_worker.trial import policy_file, trial, written
from fdn_worker.ui.guard import HEADERS, Guard, Guarded
from fdn_worker.ui.shown import picture, show

#: Files of one run whose beginnings are shown at once; the others have a page each, as those have.
SHOWN_AT_ONCE = 30
#: Entries of the audit log, and attempts, on one page.
ENTRIES, ATTEMPTS = 200, 100


class Pages:
    """All of them. They block for moments, so that each has a thread while it is made."""

    def __init__(self, settings: WorkerSettings, journal: Journal, person: str, guard: Guard, end: Callable[[], None]) -> None:
        self._settings, self._journal, self._person, self._guard, self._end = settings, journal, person, guard, end
        self._html = Environment(loader=PackageLoader("fdn_worker.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                                 lstrip_blocks=True)  # fmt: skip
        self._html.filters |= {"safe_text": safe, "moment": _moment, "bytes": "{:,}".format}
        self._html.globals |= {"node": settings.node, "person": person, "version": __version__, "csrf": guard.csrf, "file_page": _file_page}

    def routes(self) -> list[Route | Mount]:
        """Path to page."""
        return [
            Route("/", self.page(self.overview)),
            Route("/waiting", self.page(self.waiting)),
            Route("/waiting/{name}", self.page(self.run)),
            Route("/waiting/{name}", self.decide, methods=["POST"]),
            Route("/waiting/{name}/file", self.page(self.file)),
            Route("/waiting/{name}/picture", self.picture),
            Route("/audit", self.page(self.audit)),
            Route("/policy", self.page(self.policy)),
            Route("/policy", self.test, methods=["POST"]),
            Route("/close", self.close, methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("fdn_worker.ui", "static")])),
        ]

    def page(self, make: Callable[[Request], str]) -> Callable[[Request], Any]:
        """An endpoint of what makes a page."""

        async def endpoint(request: Request) -> Response:
            return HTMLResponse(await run_in_threadpool(make, request))

        return endpoint

    def _render(self, template: str, **values: Any) -> str:
        waits = len(desk.waiting(self._journal, self._settings))
        return self._html.get_template(template).render(here=template, waits=waits, **values)

    # What runs here

    def overview(self, _request: Request) -> str:
        facts, rows = standing(self._settings, self._journal), attempts(self._journal, ATTEMPTS)
        return self._render("overview.html", facts=facts, now=[row for row in rows if row["phase"] != "done"],
                            ended=[row for row in rows if row["phase"] == "done"])  # fmt: skip

    # What waits

    def waiting(self, request: Request) -> str:
        return self._render("waiting.html", waiting=desk.waiting(self._journal, self._settings), said=request.query_params.get("said", ""))

    def _find(self, request: Request) -> Waiting:
        """The attempt of the path: of that very attempt the person has seen the files."""
        for one in desk.waiting(self._journal, self._settings):
            if one.order.name == request.path_params["name"]:
                return one
        raise desk.NotWaiting("That run does not wait any longer", remedy="what waits now is listed under `Waiting`")

    def _listed(self, one: Waiting, request: Request) -> tuple[str, Path]:
        path = request.query_params.get("path", "")
        if path not in {verdict.path for verdict in one.held.verdicts}:
            raise desk.NotWaiting(f"The run has no file {safe(path)!r}", remedy="follow the links of its page")
        return path, one.folder.listed(path)

    def run(self, request: Request) -> str:
        return self._run(self._find(request))

    def _run(self, one: Waiting, problem: str = "", why: str = "", chosen: Collection[str] = ()) -> str:
        files = [
            (verdict, show(one.folder.listed(verdict.path)) if number < SHOWN_AT_ONCE else None)
            for number, verdict in enumerate(sorted(one.held.verdicts, key=lambda verdict: verdict.action != "hold"))
        ]
        return self._render("run.html", one=one, files=files, problem=problem, why=why, chosen=chosen)

    def file(self, request: Request) -> str:
        one = self._find(request)
        path, local = self._listed(one, request)
        begin, as_text = _number(request, "begin", 0), "text" in request.query_params
        verdict = next(verdict for verdict in one.held.verdicts if verdict.path == path)
        return self._render(
            "file.html", one=one, verdict=verdict, local=local, begin=begin, as_text=as_text, shown=show(local, begin, as_text=as_text)
        )

    async def picture(self, request: Request) -> Response:
        """The one route that hands out a file as it is: a picture by its first bytes, said to be one, and nothing else."""

        def found() -> tuple[bytes, str] | None:
            return picture(self._listed(self._find(request), request)[1])

        content = await run_in_threadpool(found)
        if content is None:
            return PlainTextResponse("It is no picture.\n", 404)
        return Response(content[0], media_type=content[1], headers={"Content-Security-Policy": "default-src 'none'; sandbox"})

    async def decide(self, request: Request) -> Response:
        fields = await self._guard.form(request)
        if fields is None:
            return PlainTextResponse("Refused: the form is not this page's, or too large. Load the page again.\n", 403)
        return await run_in_threadpool(self._decide, request, fields)

    def _decide(self, request: Request, fields: dict[str, list[str]]) -> Response:
        one = self._find(request)
        chosen, why, word = fields.get("file", []), fields.get("why", [""])[0].strip(), fields.get("word", [""])[0]
        if problem := _doubt(one, word, chosen, why):
            return HTMLResponse(self._run(one, problem, why, chosen), 422)
        files = sorted(set(chosen)) if word == "release" else []
        desk.decide(self._journal, one, files, self._person, why)
        said = f"{len(files)} of {len(one.undecided)} files may leave" if files else "Nothing leaves"
        return RedirectResponse(f"/waiting?{urlencode({'said': f'{said} of run {one.order.run}.'})}", 303)

    # The audit log

    def audit(self, request: Request) -> str:
        of, kind = request.query_params.get("run", "").strip(), request.query_params.get("kind", "").strip()
        # Its lines one and all, so by request alone.
        checked, signer = None, own_signer(self._settings)
        if "verify" in request.query_params:
            heads = known_head(self._journal)
            checked = check(lines_of(own_files(self._settings)), {signer.key_id: signer.public_key()} if signer else {}, heads=heads)
        entries, unreadable = list[Line](), list[str]()
        for path in reversed(own_files(self._settings)):
            found, wrong = latest(lines_of([path]), ENTRIES - len(entries), of=of, kind=kind)
            entries += [line for line, _ in reversed(found)]
            unreadable += wrong
            if len(entries) >= ENTRIES:
                break
        return self._render(
            "audit.html", checked=checked, signed=signer is not None, entries=entries, unreadable=unreadable, of=of, kind=kind
        )  # fmt: skip

    # The policy

    def policy(self, _request: Request) -> str:
        return self._policy()

    def _policy(self, order: str = "", tried: Any = None, problem: str = "") -> str:
        path, text, doubts, broken, current = self._settings.policy, "", list[str](), "", None
        if path is not None:
            try:
                text = path.read_text()
                current = policy_file(self._settings).current()
                doubts = list(lint.lint(current, self._settings, now()))
            except (SettingsError, OSError, UnicodeDecodeError) as error:
                broken = str(error)
        return self._render(
            "policy.html", path=path, lines=[safe(line.expandtabs(4)) for line in text.splitlines()], doubts=doubts, broken=broken,
            current=current, order=order, tried=tried, problem=problem,
        )  # fmt: skip

    async def test(self, request: Request) -> Response:
        fields = await self._guard.form(request)
        if fields is None:
            return PlainTextResponse("Refused: the form is not this page's, or too large. Load the page again.\n", 403)
        return await run_in_threadpool(self._test, fields.get("order", [""])[0])

    def _test(self, text: str) -> Response:
        moment = now()
        try:
            order = written(text, self._settings, self._journal, moment)
            tried = trial(order, self._settings, policy_file(self._settings), self._journal, moment)
        except FdnError as error:
            return HTMLResponse(self._policy(text, problem=str(error)), 422)
        return HTMLResponse(self._policy(text, tried))

    async def close(self, request: Request) -> Response:
        if await self._guard.form(request) is None:
            return PlainTextResponse("Refused: the form is not this page's. Load the page again.\n", 403)
        # Its style comes with it: there is nobody to ask for it any more.
        style, nonce = Path(__file__).with_name("static").joinpath("page.css").read_text(), secrets.token_urlsafe()
        page = self._html.get_template("closed.html").render(style=style, nonce=nonce)
        policy = HEADERS["Content-Security-Policy"].replace("style-src 'self'", f"style-src 'nonce-{nonce}'")
        return HTMLResponse(page, headers={"Content-Security-Policy": policy}, background=BackgroundTask(self._end))

    def failed(self, _request: Request, error: Exception) -> Response:
        """A page that cannot be made says why."""
        status = 404 if isinstance(error, desk.NotWaiting) else 500
        return HTMLResponse(self._render("failed.html", error=error), status)


def application(
    settings: WorkerSettings, journal: Journal, person: str, guard: Guard, end: Callable[[], None]
) -> Starlette:  # fmt: skip
    """The site's page behind its guard. `end` is called when its person closes it."""
    pages = Pages(settings, journal, person, guard, end)
    return Starlette(
        routes=pages.routes(), middleware=[Middleware(Guarded, guard=guard)], exception_handlers={FdnError: pages.failed}
    )  # fmt: skip


def _doubt(one: Waiting, word: str, chosen: list[str], why: str) -> str:
    """Why a decision is not taken as it was sent."""
    if word not in ("release", "deny"):
        return "Say whether files may leave or not."
    if word == "release" and not chosen:
        return "Choose the files that may leave, or deny the release."
    if word == "deny" and not why:
        return "Say why nothing leaves: the researcher is told."
    if word == "release" and not set(chosen) <= set(one.undecided):
        return "A file that you chose does not wait for your word."
    return ""


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else default


def _moment(text: str | None) -> str:
    return f"{text[:16].replace('T', ' ')} UTC" if text else "no end"


def _file_page(one: Waiting, path: str, page: str = "file", **query: Any) -> str:
    """The address of a page on one file, or of the picture."""
    return f"/waiting/{quote(one.order.name, safe='')}/{page}?{urlencode({'path': path} | query)}"
