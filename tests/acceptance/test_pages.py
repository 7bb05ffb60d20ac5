"""The pages in a browser, as people use them: one live federation and one `fem serve` for all of it; nothing leaves this host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from federation.catalogue.folder import load_tool
from federation.centre import Centre
from federation.gateway.access import Role
from tests.acceptance.conftest import until
from tests.support.browser import serious
from tests.support.gateway_process import serving
from tests.support.pages import HURRIED, PASSWORD, add_users, sign_in

PROGRAM = """\
echo "it begins, $WORDS"
[ "$WORDS" = wait ] && sleep 300
printf 'name,age\\n<b>anna</b>,61\\n' > table.csv
echo 'plain words' > notes.txt
echo '<h1>Of the site</h1><script>document.body.innerHTML = "taken"</script>' > page.html
echo '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20" fill="teal"/></svg>' > "plot's \\".svg"
[ "$WORDS" != fail ]
"""
TOOL = f"""\
name: page-demo
title: A tool to look at
tasks:
  - id: main
    timeout: 600
    command:
      base: ["/bin/sh", "-c", {json.dumps(PROGRAM)}]
      args:
        - {{id: words, default: all is well, argv: false, description: What it says}}
        - {{id: times, type: int, default: 1, argv: false}}
        - {{id: mode, choices: [quick, exact], argv: false}}
    environment: {{WORDS: "%%args.words%%"}}
    outputs: ["*"]
"""


@pytest.fixture(scope="module")
def address(environment: dict[str, str], centre: Centre, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a gateway with the users anna (of project heart), boris and olaf, an operator; the catalogue has the tool."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "page-demo.yaml").write_text(TOOL)
    centre.records.catalogue.put_tool("page-demo", load_tool(folder / "page-demo.yaml").model_dump_json())
    add_users(centre, {"anna": (Role.RESEARCHER, ["heart"]), "boris": (Role.RESEARCHER, []), "olaf": (Role.OPERATOR, [])})
    own = HURRIED | {"FEM_SERVE_PREFECT_UI": "http://prefect.example"}
    with serving(environment | own, folder) as address:
        yield address


def submit(page: Page, words: str) -> str:
    """Run the tool at site-a by its form; the id of the execution, whose page is then open."""
    page.goto("/ui/tools/page-demo")
    chosen = page.locator("label").filter(has=page.get_by_role("combobox", name="Nodes")).locator(".q-chip")
    expect(chosen).to_have_count(2)
    chosen.filter(has_text="site-b").get_by_role("button").click()
    expect(chosen).to_have_count(1)
    page.get_by_label("words").fill(words)
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_role("row", name=re.compile("site-a"))).to_contain_text("would accept")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url("**/ui/executions/*")
    return page.url.rpartition("/")[2]


def test_a_submission_from_its_form_to_its_files(page: Page) -> None:
    sign_in(page)
    page.get_by_role("link", name="Tools").click()
    page.get_by_label("Search").fill("look at")
    page.get_by_role("link", name="A tool to look at").click()
    page.get_by_label("times").fill("many")
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_role("alert")).to_contain_text("'many' is not a whole number")
    execution = submit(page, "all is well")
    head = page.locator(".fem-mark").first
    expect(page.get_by_role("log")).to_contain_text("it begins, all is well")
    expect(head).to_contain_text("succeeded")
    expect(page.get_by_role("link", name="Flow run in Prefect")).to_have_attribute("href", re.compile("^http://prefect.example/"))
    expect(page.get_by_role("img", name=re.compile("Timeline")).locator("canvas, svg").first).to_be_visible()
    look(page, "notes.txt")
    expect(page.get_by_role("dialog")).to_contain_text("plain words")
    look(page, "table.csv")
    expect(page.get_by_role("dialog").get_by_role("cell", name="<b>anna</b>")).to_be_visible()
    look(page, "plot's \".svg")
    picture = page.get_by_role("dialog").get_by_role("img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    look(page, "page.html")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Of the site")).to_be_visible()
    page.keyboard.press("Escape")
    with page.expect_download() as found:
        page.get_by_role("link", name=re.compile("^Download table.csv")).click()
    assert "anna" in Path(found.value.path()).read_text()
    with page.expect_download() as found:
        page.get_by_role("link", name=re.compile("as a zip")).click()
    assert found.value.suggested_filename == f"{execution}.zip"
    # A document that is opened by its own address is in the sandbox as well.
    answer = page.request.get(f"/ui/executions/{execution}/look?task=main&node=site-a&path=page.html")
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert page.request.get(f"/ui/executions/{execution}/file?task=main&node=site-a&path=../../../etc/passwd").status == 404


def look(page: Page, name: str) -> None:
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name=f"Look at {name} of site-a").click()


def test_what_failed_is_done_again_and_what_goes_on_is_ended(page: Page) -> None:
    sign_in(page)
    submit(page, "fail")
    head = page.locator(".fem-mark").first
    expect(head).to_contain_text("failed")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("row", name=re.compile("site-a main failed 2"))).to_be_visible()
    submit(page, "wait")
    expect(page.get_by_role("log")).to_contain_text("it begins, wait")
    page.get_by_role("link", name="Nodes").click()
    expect(page.get_by_role("listitem").filter(has_text="site-a")).to_contain_text("page-demo / main, of anna")
    page.get_by_role("link", name=re.compile("page-demo . main")).first.click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="End it").click()
    expect(head).to_contain_text("cancelled")
    page.goto("/ui/executions?state=CANCELLED&text=page-demo")
    expect(page.get_by_role("link", name="page-demo").first).to_be_visible()
    expect(page.get_by_role("cell", name="succeeded", exact=True)).to_have_count(0)
    page.get_by_label("User", exact=True).fill("nobody")
    expect(page.get_by_text("No execution matches.")).to_be_visible()
    page.wait_for_url("**/ui/executions?*user=nobody*")


def test_one_node_says_how_it_is(page: Page) -> None:
    sign_in(page, "olaf", "/ui/nodes")
    expect(page.get_by_text("2 connected")).to_be_visible()
    page.get_by_role("link", name="site-a").click()
    page.get_by_role("button", name="Check now").click()
    expect(page.get_by_text(re.compile("^in [0-9.]+ s$"))).to_be_visible()
    assert page.goto("/ui/nodes/site'\"c").status == 404  # type: ignore[union-attr]
    expect(page.get_by_role("alert")).to_contain_text("not enrolled")


def test_nobody_sees_what_is_not_his(page: Page, centre: Centre) -> None:
    execution = until(lambda: centre.records.executions(1, user="anna-of-pages"))[0].id
    path = f"/ui/executions/{execution}"
    page.goto(path)
    assert page.url.endswith(f"/ui/sign-in?then={path}")
    page.get_by_label("User").fill("boris-of-pages")
    page.get_by_label("Password").fill("guessed")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("User or password is wrong")
    page.get_by_label("User").fill("boris-of-pages")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="boris-of-pages")).to_be_visible()
    said = page.get_by_role("alert").inner_text()
    unknown = page.goto("/ui/executions/00000000-0000-5000-8000-000000000000")
    assert unknown is not None
    assert (unknown.status, page.get_by_role("alert").inner_text()) == (404, said)
    for what in ("file?task=main&node=site-a&path=notes.txt", "look?task=main&node=site-a&path=page.html", "zip", "log"):
        assert page.request.get(f"{path}/{what}").status == 404, what
    page.goto("/ui/executions")
    expect(page.get_by_text("No execution matches.")).to_be_visible()
    page.get_by_role("button", name=re.compile("account")).click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/sign-in")
    page.goto(path)
    expect(page.get_by_label("Password")).to_be_visible()


def test_a_form_of_another_site_signs_nobody_in_and_leads_nowhere_else(page: Page) -> None:
    form = {"username": "anna-of-pages", "password": PASSWORD, "then": "https://elsewhere.example/"}
    assert page.request.post("/ui/sign-in", form=form, headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    answer = page.request.post("/ui/sign-in", form=form, max_redirects=0)
    assert (answer.status, answer.headers["location"]) == (303, "/ui/executions")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(page: Page, centre: Centre, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto("/ui/sign-in")
    expect(page.get_by_label("User")).to_be_focused()
    assert serious(page) == []
    sign_in(page)
    execution = until(lambda: centre.records.executions(1, user="anna-of-pages"))[0].id
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("executions", f"executions/{execution}", "tools", "tools/page-demo", "nodes", "nodes/site-a", "nowhere"):
        page.goto(f"/ui/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert serious(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{path} is wider than a phone"


def test_it_works_by_keyboard_and_keeps_the_colours_that_were_chosen(page: Page) -> None:
    sign_in(page)
    page.goto("/ui/nodes")
    expect(page.get_by_text("2 connected")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="site-a")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/nodes/site-a")
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_role("button", name="Navigation").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Executions")).to_be_visible()
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_role("button", name=re.compile("account")).focus()
    page.keyboard.press("Enter")
    # A menu that opens takes the focus once it is there.
    expect(page.locator(".q-menu")).to_be_focused()
    page.locator(".q-menu .q-item").filter(has_text="Colours: dark").press("Enter")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.goto("/ui/executions")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
