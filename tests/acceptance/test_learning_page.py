"""A session to look at: its page in a browser, which has no network, and what Prefect shows of it on a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from federation.centre import Centre
from flows.learning_artifacts import LearningArtifacts
from storage.learning import Learning
from tests.acceptance.conftest import Run, until
from tests.support.browser import chromium, serious
from tests.support.child import child
from tests.support.waiting import SOON
from tests.unit.sessions import seen

#: What a page has that loads itself again.
RELOADS = 'id="reload"'


@pytest.fixture
def session(centre: Centre) -> str:
    """Three rounds, the last of which goes on."""
    return recorded(centre.records.learning)


def recorded(learning: Learning) -> str:
    made, id = seen(3, 6), str(uuid.uuid4())
    learning.create_session(id, name="digits", user="anna", project="", key=id, configuration=made.session.configuration, package="a" * 64)
    learning.set_state(id, "RUNNING")
    for one in made.rounds:
        learning.open_round(id, one.number, one.requested)
        for update in made.updates:
            if update.round == one.number:
                fields = {name: value for name, value in asdict(update).items() if name not in ("session", "round", "client")}
                learning.put_update(id, one.number, update.client, **fields)  # type: ignore[arg-type]
        if one.state == "DONE":
            learning.close_round(id, one.number, "DONE")
    learning.add_measures([type(row)(**asdict(row) | {"session": id}) for row in made.measures])
    return id


def test_its_page_opens_without_a_network(session: str, run: Run, tmp_path: Path) -> None:
    done = run("fem", "sessions", "page", session, "--out", "page.html")
    assert done.returncode == 0, done.stderr
    with chromium() as browser:
        looked_at(browser, (tmp_path / "page.html").as_uri(), 1200, "light")
        looked_at(browser, (tmp_path / "page.html").as_uri(), 390, "dark")


def looked_at(browser: Browser, address: str, width: int, scheme: Literal["light", "dark"]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_function("[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))")
    assert page.locator(".plot").count() == 8
    assert page.locator(".plot .scatterlayer .trace").count() > 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious(page) == []
    assert said == []
    assert asked == [address]
    page.close()


def test_it_is_written_again_until_the_session_ends(session: str, environment: dict[str, str], centre: Centre, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("fem", "sessions", "page", session, "--watch", "--out", str(page))
    with child(words, env=environment, stderr=subprocess.DEVNULL) as process:
        until(page.exists)
        assert RELOADS in page.read_text()
        centre.records.learning.set_state(session, "FINISHED", "3 rounds were run")
        assert process.wait(SOON) == 0
    assert "FINISHED: 3 rounds were run" in page.read_text()
    assert RELOADS not in page.read_text()


def test_prefect_shows_it_in_as_many_artifacts_whatever_the_rounds(prefect_api: dict[str, str], session: str, centre: Centre) -> None:
    learning = centre.records.learning

    @flow
    async def told() -> uuid.UUID:
        shown = LearningArtifacts(learning, session)
        await shown.tell()
        await asyncio.to_thread(learning.close_round, session, 3, "DONE")
        await shown.tell()
        return uuid.UUID(flow_run.id)

    client = {PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}
    with temporary_settings(client), get_client(sync_client=True) as prefect:
        of = asyncio.run(told())
        made = prefect.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[of])))
    by_key = {artifact.key: artifact for artifact in made}
    assert set(by_key) == {f"rounds-{session}", f"learning-{session}", f"curve-{session}"}
    assert len(made) == 3
    assert [row["state"] for row in json.loads(str(by_key[f"rounds-{session}"].data))] == ["DONE"] * 3
    assert "| loss | train | 3 |" in str(by_key[f"learning-{session}"].data)
