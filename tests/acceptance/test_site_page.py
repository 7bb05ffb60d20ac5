"""The site's page in a browser, on a live node: `fdn-worker ui` is a process of its own beside the worker."""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import pytest
from playwright.sync_api import Browser, Page, expect

from fdn_worker.protocol import State
from fdn_worker.release.desk import login
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.browser import chromium, serious
from tests.support.child import child
from tests.support.rig import SOON, Rig, census, eventually, rig

T = TypeVar("T")
NODE = "hospital-1"
POLICY = """
[[rule]]
id = "study"
effect = "allow"
users = ["ada"]
projects = ["genomes"]
datasets = ["census"]
"""
RULES = [
    {"id": "log", "action": "auto", "log": True},
    {"id": "tables", "action": "check", "kinds": ["csv"], "checks": {"csv": {"min_count": 10, "count_columns": ["n"]}}},
]
TASK = r"""
cat "$DATA_PATH/census/picture" > plot.png
printf 'group,n\n<b>old</b>,3\nyoung,40\n' > table.csv
printf '<script>document.title = "taken"</script>\n' > page.html
"""


def a_picture() -> bytes:
    """A PNG of 40 x 40 blue points."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress((b"\0" + b"\x20\x60\xc0" * 40) * 40))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("page")
    (home / "policy.toml").write_text(POLICY)
    data = census(home, (NODE,))
    (data[NODE]["census"] / "picture").write_bytes(a_picture())
    options = {"logs": "after-release", "release": {"rules": RULES}, "policy": str(home / "policy.toml")}
    with rig(LocalFederation(home, (NODE,), data, options=options)) as made:
        made.start(NODE)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def address(house: Rig) -> Iterator[str]:
    """What `fdn-worker ui` prints."""
    command = [sys.executable, "-m", "fdn_worker", "ui", "--settings", str(house.federation.settings_file(NODE)), "--port", "0"]
    with child(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "once" in process.stdout.readline()
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        process.wait(SOON)


@pytest.fixture(scope="module")
def entered(browser: Browser, address: str) -> tuple[str, dict[str, object]]:
    """The page's own address, and the session of the one browser that it lets in."""
    context = browser.new_context()
    context.new_page().goto(address)
    state = context.storage_state()
    context.close()
    return address.partition("/enter")[0], state  # type: ignore[return-value]


@pytest.fixture
def page(browser: Browser, entered: tuple[str, dict[str, object]]) -> Iterator[Page]:
    """A page that may ask nobody but the site's own, and hears of every error."""
    home, state = entered
    context = browser.new_context(base_url=home, storage_state=state)  # type: ignore[arg-type]
    asked: list[str] = []
    made = context.new_page()
    made.on("request", lambda request: asked.append(request.url))
    yield made
    context.close()
    assert [url for url in asked if not url.startswith(f"{home}/")] == []


def apart(call: Callable[..., T], *values: object) -> T:
    """Call what runs an event loop of its own: Playwright has one in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *values).result()


@pytest.fixture
def waiting(house: Rig) -> Submission:
    submission = house.send(
        NODE, "/bin/sh", "-c", TASK, outputs=("*",), user="ada", project="genomes", tool="summary", datasets=("census",)
    )
    apart(house.reach, submission, State.AWAITING_RELEASE)
    return submission


def open_run(page: Page, submission: Submission) -> None:
    page.goto("/waiting")
    page.get_by_role("link", name=f"Run {str(submission.run)[:8]}").click()


def test_a_person_looks_at_each_file_and_lets_some_go(house: Rig, page: Page, waiting: Submission) -> None:
    page.goto("/")
    expect(page.get_by_role("row", name=re.compile(str(waiting.run)[:8]))).to_contain_text("AWAITING_RELEASE")
    open_run(page, waiting)
    assert "taken" not in page.title()
    expect(page.get_by_label("Content of outputs/page.html")).to_contain_text("<script>")
    expect(page.get_by_label("Content of outputs/table.csv").get_by_role("cell", name="<b>old</b>")).to_be_visible()
    picture = page.get_by_role("img", name="plot.png")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    expect(page.get_by_text("has counts below 10")).to_be_visible()
    page.get_by_label("Let outputs/plot.png leave").check()
    page.get_by_label("Let outputs/page.html leave").check()
    page.get_by_label(re.compile("^Reason")).fill("the table tells of three people")
    page.get_by_role("button", name="Release chosen files").click()
    expect(page.get_by_role("status")).to_contain_text("2 of 3 files may leave")
    result = apart(house.result, waiting)
    assert result.state is State.SUCCEEDED, result.explain()
    release = result.report.release
    assert release is not None
    assert (release.verdict, release.person, release.why) == ("partly", login(), "the table tells of three people")
    assert sorted(file.path for file in result.files if file.path.startswith("outputs/")) == ["outputs/page.html", "outputs/plot.png"]
    # The line follows what it tells of.
    eventually("the audit log tells of the release", lambda: told(page, str(waiting.run)))
    expect(page.get_by_role("row").nth(1)).to_contain_text(f"person={login()}")


def told(page: Page, run: str) -> bool:
    page.goto(f"/audit?verify=1&kind=release&run={run}")
    expect(page.get_by_text("entries, whole")).to_be_visible()
    return page.get_by_role("row").count() == 2


def test_a_denial_wants_a_reason_and_works_by_keyboard(house: Rig, page: Page, waiting: Submission) -> None:
    open_run(page, waiting)
    page.get_by_label("Let outputs/plot.png leave").check()
    page.get_by_role("button", name="Deny: nothing leaves").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Say why nothing leaves")
    expect(page.get_by_label("Let outputs/plot.png leave")).to_be_checked()
    page.get_by_label(re.compile("^Reason")).focus()
    page.keyboard.type("too few people")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_contain_text("Nothing leaves")
    result = apart(house.result, waiting)
    assert (result.state, result.reason and result.reason.code) == (State.FAILED, "release-denied")
    assert "too few people" in result.explain()
    page.goto(f"/waiting/fdn-{waiting.run}-1")
    expect(page.get_by_role("alert")).to_contain_text("does not wait any longer")


def test_the_policy_is_shown_with_its_doubts_and_tried(page: Page) -> None:
    page.goto("/policy")
    expect(page.get_by_text("rule study: allows any image")).to_be_visible()
    expect(page.get_by_label("The policy file")).to_contain_text('users = ["ada"]')
    order = page.get_by_label(re.compile("^An order"))
    for text, said in (
        ('user = "ada"\nproject = "genomes"\ndatasets = ["census"]', "accepted by rule study"),
        ('user = "bob"', "refused"),
        ("usr = 1", "did you mean"),
        ("/etc/passwd", "write it as TOML or JSON"),
    ):
        order.fill(text)
        page.get_by_role("button", name="Judge it").click()
        expect(page.locator("main")).to_contain_text(said)
    expect(order).to_have_value("/etc/passwd")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(page: Page, waiting: Submission, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    run = f"/waiting/fdn-{waiting.run}-1"
    for path in ("/", "/waiting", run, f"{run}/file?path=outputs/table.csv", "/audit?verify=1", "/policy", "/waiting/nothing"):
        page.goto(path)
        assert serious(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{path} is wider than a phone"
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()


def test_the_address_lets_one_browser_in(browser: Browser, address: str, entered: object) -> None:
    context = browser.new_context()
    try:
        answer = context.new_page().goto(address)
        assert answer is not None
        assert (answer.status, NODE in answer.text()) == (403, False)
    finally:
        context.close()


def test_a_port_that_is_taken_is_told(house: Rig, address: str) -> None:
    port = address.rpartition("/")[0].rpartition(":")[2]
    done = house.command(NODE, "ui", "--port", port)
    assert (done.returncode, f"port {port}" in done.stderr, "--port" in done.stderr) == (2, True, True)


def test_it_is_closed_by_its_person(house: Rig, browser: Browser, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fdn_worker", "ui", "--settings", str(house.federation.settings_file(NODE)), "--port", "0"]
    with child(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        context = browser.new_context()
        page = context.new_page()
        page.goto(process.stdout.readline().strip())
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("heading", name="Closed")).to_be_visible()
        assert process.wait(SOON) == 0
        assert page.locator("main").evaluate("main => getComputedStyle(main).maxWidth") != "none", "its style came with it"
        context.close()
