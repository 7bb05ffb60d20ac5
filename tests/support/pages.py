"""What tests of the gateway's pages share: a browser, a page of it that asks nobody but the gateway, users, and how one signs in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect

from federation.centre import Centre
from federation.gateway.access import Role
from federation.gateway.passwords import hashed
from tests.support.waiting import SOON

PASSWORD = "correct horse battery"
#: Settings of a gateway that tests hurry.
HURRIED = {"FEM_SERVE_REQUESTS_A_MINUTE": "100000", "FEM_SERVE_SIGN_INS_A_MINUTE": "1000"}


def add_users(centre: Centre, users: Mapping[str, tuple[Role, Sequence[str]]]) -> None:
    """NAME-of-pages each, with role and projects."""
    for name, (role, projects) in users.items():
        if centre.records.gateway.user(f"{name}-of-pages") is None:
            centre.records.gateway.add_user(f"{name}-of-pages", role, hashed(PASSWORD), list(projects), by="test")


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page of a browser that may ask nobody but the gateway; at its end it has met no error."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(SOON * 1000)
    expect.set_options(timeout=SOON * 1000)
    made = context.new_page()
    asked: list[str] = []
    broken: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    made.on("websocket", lambda socket: asked.append(socket.url.replace("ws://", "http://")))
    made.on("pageerror", lambda error: broken.append(str(error)))
    yield made
    context.close()
    assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
    assert broken == []


def sign_in(page: Page, name: str = "anna", then: str = "/ui/executions") -> None:
    """With the password, and on to the page."""
    page.goto(then)
    page.get_by_label("User").fill(f"{name}-of-pages")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"{name}-of-pages")).to_be_visible()
    assert page.url.endswith(then)
