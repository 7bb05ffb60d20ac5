"""The frame of every page: who looks at it, the navigation, what is out of order; and errors as words instead of a page that is broken.

A page draws with NiceGUI on the event loop; all that it reads or does is a plain function `job(services, who, ...)`, run in a thread by
`visit.ask` or `visit.act`. Who asks is looked up each time, so that a session that was ended does nothing more from pages that are open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Concatenate, Literal, ParamSpec, TypeVar
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nicegui import ui

from fdn_worker.errors import FdnError
from federation.gateway.access import Action, Caller, decide
from federation.gateway.errors import NotFound, NotSignedIn
from federation.gateway.health import Readiness
from federation.gateway.problems import PARTS, problem_of
from federation.gateway.services import Services, of
from federation.gateway.signing import COOKIE, address_of

P = ParamSpec("P")
T = TypeVar("T")

#: Where the pages are.
AT = "/ui"
#: Cookie with the colours that somebody chose; it says nothing else, and none is as the machine has it.
SCHEME = "fem_scheme"
#: Seconds between two looks whether all parts answer.
WATCHED = 5.0
#: Seconds that a page may take to be drawn; NiceGUI answers with an error of its own after that.
PATIENCE = 30.0


@dataclass(frozen=True)
class Page:
    """A page; with a `section` it stands in the navigation, in the order of the table in `__init__.py`."""

    #: Below AT; what stands in braces is in `visit.request.path_params`.
    path: str
    title: str
    draw: Callable[[Visit], Awaitable[None]]
    #: What one has to be allowed to see it.
    needs: Action
    section: str = ""
    icon: str = ""


@dataclass
class Visit:
    """One look at a page."""

    services: Services
    request: Request
    who: Caller
    #: The page's heading.
    heading: ui.label
    #: What is done again and again once the page is drawn: seconds, and what. NiceGUI sends a page as it is when its first timer starts.
    timers: list[tuple[float, Callable[[], Awaitable[None]]]] = field(default_factory=list)

    def named(self, title: str) -> None:
        """Head the page with the name of what it shows."""
        self.heading.text = title
        ui.page_title(f"{title} · Federation")

    async def ask(self, job: Callable[Concatenate[Services, Caller, P], T], /, *given: P.args, **named: P.kwargs) -> T:
        """What the job gives; its errors are raised, and while a page is drawn they are what it shows."""

        def call() -> T:
            return job(self.services, identified(self.services, self.request), *given, **named)

        return await asyncio.to_thread(call)

    async def act(self, job: Callable[Concatenate[Services, Caller, P], T], /, *given: P.args, **named: P.kwargs) -> T | None:
        """The same for a button: an error is told, and gives None."""
        try:
            return await self.ask(job, *given, **named)
        except NotSignedIn:
            ui.navigate.to(sign_in(self.request).removeprefix(AT))
        except FdnError as error:
            told(error)
        return None

    async def live(self, every: float, job: Callable[[Services, Caller], T], show: Callable[[T], object]) -> Callable[[], Awaitable[None]]:
        """Show what the job gives, now and whenever it gives something else; gives what looks at once. What cannot be read stays as it was."""
        last = await self.ask(job)
        await _done(show(last))

        async def again() -> None:
            nonlocal last
            try:
                fresh = await self.ask(job)
            except NotSignedIn:
                ui.navigate.to(sign_in(self.request).removeprefix(AT))
                return
            except FdnError:
                # The frame says what is down.
                return
            if fresh != last:
                last = fresh
                await _done(show(fresh))

        self.timers.append((every, again))
        return again


async def _done(given: object) -> None:
    if isinstance(given, Awaitable):
        await given


def identified(services: Services, request: Request) -> Caller:
    """Whose browser it is; blocks."""
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        raise NotSignedIn
    return services.gate.identify(cookie, address_of(request))


def sign_in(request: Request) -> str:
    """Address of the page to sign in at, which leads back here."""
    place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"{AT}/sign-in?then={quote(place)}"


def told(error: FdnError) -> None:
    """An error as a note that a screen reader says at once."""
    problem = problem_of(error)
    ui.notify(
        problem.detail + (f" — {problem.remedy}" if problem.remedy else ""),
        type="negative",
        multi_line=True,
        close_button="Close",
        timeout=0,
    )


def add(page: Page, pages: tuple[Page, ...]) -> None:
    """Have NiceGUI serve it."""

    @ui.page(page.path, response_timeout=PATIENCE)
    async def opened(request: Request) -> Response | None:
        return await drawn(request, page, pages)


async def drawn(request: Request, page: Page, pages: tuple[Page, ...]) -> Response | None:
    """The page in its frame, or what keeps it from being shown."""
    services = of(request)
    scheme(request)
    try:
        who = await asyncio.to_thread(identified, services, request)
    except NotSignedIn:
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A link from elsewhere, such as Prefect's pages: the browser keeps the cookie back until a page of ours asks.
            return HTMLResponse('<!doctype html><title>Federation</title><meta http-equiv="refresh" content="0">')
        return RedirectResponse(sign_in(request), 303)
    except FdnError as error:
        _, body, banner = framed(request, None, page.title, pages)
        with body:
            failed(request, error)
            _watch(request, banner)
        return None
    heading, body, banner = framed(request, who, page.title, pages)
    visit = Visit(services, request, who, heading)
    with body:
        try:
            await visit.ask(lambda services, who: services.gate.allow(who, page.needs))
            await page.draw(visit)
        except FdnError as error:
            body.clear()
            visit.timers.clear()
            with body:
                failed(request, error)
        for every, again in visit.timers:
            ui.timer(every, again, immediate=False)
        _watch(request, banner)
    return None


async def nowhere(request: Request, pages: tuple[Page, ...]) -> Response | None:
    """For every address that no page has. Strangers learn nothing of which there are."""

    async def draw(_: Visit) -> None:
        raise NotFound

    return await drawn(request, Page("", "Not found", draw, Action.ACCOUNT), pages)


def scheme(request: Request) -> None:
    """Dark or light as it was chosen, or as the machine has it."""
    ui.dark_mode({"dark": True, "light": False}.get(request.cookies.get(SCHEME, "")))


def framed(request: Request, who: Caller | None, title: str, pages: tuple[Page, ...]) -> tuple[ui.label, ui.column, ui.column]:
    """Header and navigation; gives the page's heading, its place, and that of what is down."""
    ui.page_title(f"{title} · Federation")
    with ui.header().classes("items-center q-px-md q-py-xs no-wrap fem-header"):
        menu = ui.button(icon="menu", color=None).props('flat round aria-label="Navigation"')
        ui.label("Federation").classes("fem-name")
        ui.space()
        if who is not None:
            _person(who)
    with ui.left_drawer().classes("fem-drawer") as drawer, ui.element("nav").props('aria-label="Pages"').classes("full-width"):
        _navigation(request, who, pages)
    menu.on_click(drawer.toggle)
    banner = ui.column().classes("full-width").props('role="status" aria-live="polite"')
    body = ui.column().classes("full-width fem-body")
    with body:
        heading = ui.label(title).props('role="heading" aria-level="1"').classes("fem-title")
        place = ui.column().classes("full-width fem-body")
    ui.skip_link("Skip to content", target=body)
    return heading, place, banner


def _navigation(request: Request, who: Caller | None, pages: tuple[Page, ...]) -> None:
    section = ""
    for page in pages:
        if not page.section or (who is not None and not decide(who, page.needs)):
            continue
        if page.section != section:
            section = page.section
            ui.label(section).classes("fem-section")
        here = request.url.path == AT + page.path or request.url.path.startswith(f"{AT}{page.path}/")
        with ui.link(target=page.path).classes("fem-nav" + " fem-here" * here).props('aria-current="page"' if here else ""):
            ui.icon(page.icon).props('aria-hidden="true"')
            ui.label(page.title)


def _person(who: Caller) -> None:
    with ui.button(who.name, icon="account_circle", color=None).props("flat no-caps") as button, ui.menu():
        button.props["aria-label"] = f"{who.name}: account and colours"
        ui.label(f"{who.name}, {who.role}").classes("q-pa-md")
        for name, icon in (("auto", "brightness_auto"), ("light", "light_mode"), ("dark", "dark_mode")):
            # By the browser alone: it does so before the page is connected, too.
            ui.menu_item(f"Colours: {name}").props(f'icon="{icon}"').on("click", js_handler=_chooser(name))
        ui.separator()
        with ui.element("form").props(f'method="post" action="{AT}/sign-out"'):
            ui.button("Sign out", icon="logout", color=None).props("type=submit flat no-caps align=left").classes("full-width")


def _chooser(name: str) -> str:
    value = {"auto": "'auto'", "light": "false", "dark": "true"}[name]
    return f"() => {{ document.cookie = '{SCHEME}={name}; path=/; max-age=31536000; samesite=strict'; Quasar.Dark.set({value}) }}"


def _watch(request: Request, banner: ui.column) -> None:
    """Say above the page which part is down, until it is back."""
    readiness: Readiness = request.app.state.readiness
    shown: list[str] = []

    async def look() -> None:
        nonlocal shown
        down = [PARTS[f"{part}-unavailable"] for part, state in (await readiness.look()).items() if state == "down"]
        if down == shown:
            return
        shown = down
        banner.clear()
        if down:
            with banner, ui.row().classes("fem-banner full-width no-wrap items-center"):
                ui.icon("cloud_off").props('aria-hidden="true"')
                ui.label(f"{' and '.join(down)} cannot be reached: what you see may be old, and nothing new may begin.".capitalize())

    ui.timer(WATCHED, look)


def failed(request: Request, error: FdnError) -> None:
    """The page's place when it cannot be shown; what is out of order is tried again until it is in order."""
    problem = problem_of(error)
    ui.context.client.status_code = problem.status
    note("error", problem.detail[:1].upper() + problem.detail[1:] + ".", f"What to do: {problem.remedy}." if problem.remedy else "")
    if problem.status == 503:
        readiness: Readiness = request.app.state.readiness

        async def again() -> None:
            if all(state == "ok" for state in (await readiness.look()).values()):
                ui.navigate.reload()

        ui.timer(WATCHED, again, immediate=False)


def note(kind: Literal["error", "empty", "info"], *lines: str) -> None:
    """A few words in the place of something."""
    icon = {"error": "error_outline", "empty": "inbox", "info": "info"}[kind]
    with ui.row().classes(f"fem-note fem-note-{kind} full-width no-wrap items-center").props('role="alert"' if kind == "error" else ""):
        ui.icon(icon).props('aria-hidden="true"')
        with ui.column().classes("q-gutter-none"):
            for line in filter(None, lines):
                ui.label(line)
