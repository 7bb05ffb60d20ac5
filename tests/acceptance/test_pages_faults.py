"""The pages in Chromium while the records, the store or the broker are down: they say which, and are themselves again without a click.

The gateway runs in this process: that is how its parts are taken away and given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from fdn_worker.errors import BrokerUnavailable, FdnError, StoreUnavailable
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.execution import open_job
from federation.gateway import health, pages
from federation.gateway.access import Role
from federation.gateway.application import application
from federation.gateway.serving import listening, server
from federation.gateway.settings import GatewaySettings
from federation.local import LocalFederation
from federation.tool_request import ToolRequest
from storage.database import RecordsUnavailable
from tests.support.pages import add_users, sign_in
from tests.unit.gateway import Remembering
from tests.unit.test_fem_rest import leave

QUOTED = """n"o'de</script>"""


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    federation = LocalFederation(tmp_path_factory.mktemp("faults"), ("site-a",))
    federation.prepare()
    centre = Centre.open(federation.settings())
    add_users(centre, {"anna": (Role.RESEARCHER, ())})
    yield centre
    centre.close()


@pytest.fixture(scope="module")
def execution(centre: Centre) -> str:
    """One of anna's, of which a file came back."""
    tool = Tool.model_validate({"name": "hello", "tasks": [{"id": "hello", "timeout": 60, "command": {"base": ["true"]}}]})
    centre.records.catalogue.put_tool("hello", tool.model_dump_json())
    job = open_job(centre, tool, ToolRequest(tool="hello", nodes=("site-a",), user="anna-of-pages"), uuid4().hex)
    leave(centre, str(job.execution), "site-a")
    return str(job.execution)


@pytest.fixture(scope="module")
def address(centre: Centre) -> Iterator[str]:
    settings = GatewaySettings(port=0, requests_a_minute=100_000, sign_ins_a_minute=1000)
    with pytest.MonkeyPatch.context() as patch:
        # Before the pages are made, which look as often.
        patch.setattr(pages.frame, "WATCHED", 0.5)
        patch.setattr(health, "FRESH", 0.1)
        app = application(centre, Remembering(), settings)
        pages.mount(app)
        with listening(settings) as socket:
            running = server(app, settings)
            thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]}, daemon=True)
            thread.start()
            yield "http://{}:{}".format(*socket.getsockname()[:2])
            running.should_exit = True
            thread.join(60)


@contextmanager
def away(error: FdnError, *parts: tuple[Any, str]) -> Iterator[None]:
    """These methods fail meanwhile."""

    def down(*_: object, **__: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        for whose, what in parts:
            patch.setattr(whose, what, down)
        yield


def records(centre: Centre) -> tuple[FdnError, list[tuple[Any, str]]]:
    return RecordsUnavailable("db.inside: refused"), [(centre.records.database, "read"), (centre.records.database, "write")]


def store(centre: Centre) -> tuple[FdnError, list[tuple[Any, str]]]:
    return StoreUnavailable("minio.inside: refused"), [(centre.store, "get"), (centre.store, "stat"), (centre.store, "list")]


def broker(centre: Centre) -> tuple[FdnError, list[tuple[Any, str]]]:
    return BrokerUnavailable("amqp.inside: refused"), [(centre.broker, "depth"), (centre.broker, "publish"), (centre.broker, "declare")]


@pytest.mark.parametrize(("part", "named"), [(records, "records"), (store, "store"), (broker, "broker")])
def test_a_page_says_what_is_down_and_is_itself_again(
    page: Page, centre: Centre, execution: str, part: Callable[[Centre], tuple[FdnError, list[tuple[Any, str]]]], named: str
) -> None:
    sign_in(page)
    path = f"/ui/executions/{execution}"
    page.goto(path)
    expect(page.get_by_text("hello").first).to_be_visible()
    error, parts = part(centre)
    with away(error, *parts):
        page.goto(path)
        told = page.locator(".fem-banner, .fem-note-error").filter(has_text=f"{named} cannot be reached").first
        expect(told).to_be_visible()
        assert "inside" not in page.inner_text("body"), "no address of the federation's own"
    expect(told).to_be_hidden()
    expect(page.get_by_text("hello").first).to_be_visible()


def test_paths_that_climb_and_names_with_quotes_lead_nowhere(page: Page, execution: str) -> None:
    sign_in(page)
    below = f"/ui/executions/{execution}"
    for given in (
        {"path": "../manifest.json", "node": "site-a"},
        {"path": "a.csv", "node": QUOTED},
        {"path": "/etc/passwd", "node": "site-a"},
    ):
        for what in ("file", "look"):
            answer = page.request.get(f"{below}/{what}", params={"task": "hello", **given})
            assert answer.status == 404, (what, given)
            assert "script>" not in answer.text()
    for place in ("/ui/nodes/", "/ui/tools/", "/ui/executions/"):
        found = page.goto(f"{place}{'n%22o%27de%3C%2Fscript%3E'}")
        assert found is not None
        assert found.status == 404, place
