"""The site's page: who is let in, and what is shown of a file."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer
from fdn_worker.ui.application import application
from fdn_worker.ui.guard import HEADERS, LONGEST_FORM, Guard
from fdn_worker.ui.serving import serve
from fdn_worker.ui.shown import ROWS, TEXT_BYTES, picture, show
from tests.unit.helpers import settings

PORT = 9107
HOME = f"http://127.0.0.1:{PORT}"
TOKEN = "t" * 43
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 64


@pytest.fixture
def guard() -> Guard:
    return Guard(TOKEN, PORT)


@pytest.fixture
def ended() -> list[bool]:
    return []


@pytest.fixture
async def client(tmp_path: Path, guard: Guard, ended: list[bool]) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has not entered yet."""
    journal = Journal(tmp_path / "journal.db", Signer())
    app = application(settings(tmp_path), journal, "ada", guard, lambda: ended.append(True))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HOME) as made:
        yield made
    journal.close()


@pytest.fixture
async def inside(client: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await client.get("/enter", params={"token": TOKEN})).status_code == 303
    return client


async def post(client: httpx.AsyncClient, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
    return await client.post(path, data=fields, headers={"Origin": HOME} | headers)


async def test_nobody_sees_a_page_without_the_token(client: httpx.AsyncClient) -> None:
    for path in ("/", "/waiting", "/audit", "/policy", "/nothing"):
        answer = await client.get(path)
        assert answer.status_code == 403, path
        assert "site-a" not in answer.text
    assert (await client.get("/enter", params={"token": "wrong"})).status_code == 403
    assert (await client.get("/")).status_code == 403


async def test_the_token_is_good_once(inside: httpx.AsyncClient) -> None:
    assert (await inside.get("/")).status_code == 200
    inside.cookies.clear()
    assert (await inside.get("/enter", params={"token": TOKEN})).status_code == 403
    assert (await inside.get("/enter", params={"token": ""})).status_code == 403


async def test_the_cookie_is_for_our_own_pages_alone(client: httpx.AsyncClient) -> None:
    cookie = (await client.get("/enter", params={"token": TOKEN})).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("host", ["attacker.example", f"attacker.example:{PORT}", "127.0.0.1", "127.0.0.1:80", ""])
async def test_another_host_is_refused_with_the_cookie_too(inside: httpx.AsyncClient, host: str) -> None:
    answer = await inside.get("/", headers={"Host": host})
    assert (answer.status_code, "site-a" in answer.text) == (403, False)


async def test_a_form_from_elsewhere_is_refused(inside: httpx.AsyncClient, guard: Guard, ended: list[bool]) -> None:
    good = {"csrf": guard.csrf}
    for headers in ({"Origin": "http://attacker.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}):
        assert (await post(inside, "/close", good, **headers)).status_code == 403
    assert (await inside.post("/close", data=good)).status_code == 403, "no origin at all"
    assert (await post(inside, "/close", {"csrf": "wrong"})).status_code == 403
    assert (await post(inside, "/close", {})).status_code == 403
    assert ended == []
    assert (await post(inside, "/close", good)).status_code == 200
    assert ended == [True]


async def test_a_form_that_is_too_large_is_refused(inside: httpx.AsyncClient, guard: Guard) -> None:
    fields = {"csrf": guard.csrf, "order": "x" * (LONGEST_FORM + 1)}
    assert (await post(inside, "/policy", fields)).status_code == 403


async def test_every_answer_forbids_scripts_and_frames(inside: httpx.AsyncClient) -> None:
    for path in ("/", "/static/page.css", "/nothing", "/waiting/fdn-1"):
        headers = (await inside.get(path)).headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
    assert "script" not in HEADERS["Content-Security-Policy"]


async def test_the_closing_page_brings_its_style_and_forbids_all_else(inside: httpx.AsyncClient, guard: Guard, ended: list[bool]) -> None:
    answer = await post(inside, "/close", {"csrf": guard.csrf})
    (nonce,) = re.findall(r'<style nonce="([^"]+)">', answer.text)
    forbids = HEADERS["Content-Security-Policy"].replace("style-src 'self'", f"style-src 'nonce-{nonce}'")
    assert answer.headers["Content-Security-Policy"] == forbids != HEADERS["Content-Security-Policy"]
    assert ended == [True]


def test_who_comes_as_soon_as_the_address_is_told_is_not_turned_away(tmp_path: Path) -> None:
    made = settings(tmp_path)
    Journal(made.state_dir / "journal.db", Signer()).close()

    def come(address: str) -> None:
        url = httpx.URL(address)
        socket.create_connection((url.host, url.port)).close()
        raise KeyboardInterrupt  # before anything is served

    with pytest.raises(KeyboardInterrupt):
        serve(made, 0, "ada", come)


async def test_a_run_that_does_not_wait_is_said_to(inside: httpx.AsyncClient) -> None:
    answer = await inside.get("/waiting/fdn-%3Cscript%3E")
    assert answer.status_code == 404
    assert "does not wait any longer" in answer.text
    assert "<script>" not in answer.text


async def test_an_audit_log_that_is_not_there_is_said_to_be(inside: httpx.AsyncClient) -> None:
    answer = await inside.get("/audit")
    assert answer.status_code == 500
    assert "there is no audit log" in answer.text


async def test_without_a_policy_the_page_says_what_that_means(inside: httpx.AsyncClient) -> None:
    assert "they allow to everybody" in (await inside.get("/policy")).text


# What is shown


def put(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_a_text_shows_what_a_browser_would_obey_or_hide(tmp_path: Path) -> None:
    found = show(put(tmp_path, "<script>alert(1)</script>\nuser\u202etxt.exe\u200b\n\ttab\r\n".encode()))
    assert (found.how, found.lines) == ("text", ["<script>alert(1)</script>", "user\\u202etxt.exe\\u200b", "    tab"])


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
def test_a_long_text_comes_in_parts_that_lose_nothing(tmp_path: Path, lead: int) -> None:
    # No line ends in it, and parts would end within a character.
    text = "a" * lead + "\U0001f600" * (TEXT_BYTES // 2)
    path, begin, said = put(tmp_path, text.encode()), 0, ""
    for _ in range(5):
        part = show(path, begin)
        said += "".join(part.lines)
        if part.next is None:
            break
        begin = part.next
    assert said == text


def test_a_table_comes_in_parts_with_its_rows_numbered(tmp_path: Path) -> None:
    path = put(tmp_path, b"n;of\n" + b"".join(b"%d;x\n" % number for number in range(1, ROWS + 3)))
    first, second = show(path), show(path, ROWS)
    assert (first.how, first.header, first.first, len(first.rows), first.next) == ("table", ["n", "of"], 1, ROWS, ROWS)
    assert (second.rows, second.first, second.next) == ([[str(ROWS + 1), "x"], [str(ROWS + 2), "x"]], ROWS + 1, None)


def test_what_only_begins_as_a_table_is_no_table(tmp_path: Path) -> None:
    path = put(tmp_path, b"a,b\n" * 30_000 + b'"never closed,\n')
    assert show(path).how == "table"
    assert "none throughout" in show(path, 29_900).note
    assert show(path, as_text=True).lines[0] == "a,b"


def test_a_picture_is_one_by_its_content(tmp_path: Path) -> None:
    assert picture(put(tmp_path, PNG)) == (PNG, "image/png")
    assert picture(put(tmp_path, b"<svg onload='alert(1)'/>")) is None
    assert show(put(tmp_path, b"\x00\x01<html>")).how == "hex"
    assert show(put(tmp_path, b"")).note == "The file is empty."


def test_no_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(put(tmp_path, PNG))
    assert show(link).how == "nothing"
    assert picture(link) is None
