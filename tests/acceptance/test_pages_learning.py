"""The pages of learning, simulations, accounting and the audit in a browser, on a session that real nodes run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from federation.centre import Centre
from federation.gateway.access import Role
from federation.learning import opening
from federation.simulation import sweep
from storage.learning_rows import ModelRow, SessionRow
from tests.acceptance.conftest import until
from tests.support.browser import serious
from tests.support.gateway_process import serving
from tests.support.learning import a_session
from tests.support.pages import HURRIED, add_users, sign_in
from tests.unit.helpers import MOMENT
from tests.unit.sessions import seen

SWEEP = """\
simulation: {repetitions: 1, num_rounds: 3}
data: {dataset: synthetic, num_examples_mean: 50}
workers: {number: 1, chunk: 4}
variants:
  fedavg: {}
  <b>prox: {algorithms: {federated_algorithm: fedprox}}
"""


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a package, and the results of a simulation below `simulations`."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "small.yaml").write_text(SWEEP)
    sweep.run(folder / "small.yaml", sweep.checked(folder / "small.yaml"), output=folder / "simulations" / "small")
    return folder


@pytest.fixture(scope="module")
def address(environment: dict[str, str], centre: Centre, folder: Path) -> Iterator[str]:
    """Of a gateway with anna (of project heart), boris, and aude, an auditor."""
    add_users(centre, {"anna": (Role.RESEARCHER, ["heart"]), "boris": (Role.RESEARCHER, []), "aude": (Role.AUDITOR, [])})
    with serving(environment | HURRIED | {"FEM_SERVE_SIMULATIONS": str(folder / "simulations")}, folder) as address:
        yield address


@pytest.fixture(scope="module")
def paused(centre: Centre, folder: Path) -> SessionRow:
    """A session of anna's that is to go on: round 2 waits for the file `go`."""
    asked = a_session(
        folder, name="half-way", user="anna-of-pages", rounds=30, nodes=("site-a", "site-b"),
        settings={"faults": {"site-a": {"2": "wait"}}, "until": str(folder / "go")},
    )  # fmt: skip
    program = folder / "package" / "client.py"
    program.write_text(program.read_text().replace('float(node.rpartition("-")[2])', "float(ord(node[-1]) - 96)"))
    row = opening.begin(centre, asked, "of-pages")
    centre.records.learning.want(row.id, "pause", by="test")
    return centre.records.learning.set_state(row.id, "PAUSED", "it was asked to pause")


@pytest.fixture(scope="module")
def long(centre: Centre) -> SessionRow:
    """A session as records tell it: many metrics, each outcome; and a model of it that another session went on from."""
    rows, learning = seen(), centre.records.learning
    row = learning.create_session(
        rows.session.id,
        name="digits",
        user="somebody",
        project="heart",
        key="k",
        configuration=rows.session.configuration,
        package="a" * 64,
    )
    parent: str | None = None
    for one in rows.rounds:
        learning.open_round(row.id, one.number, one.requested)
        for update in (update for update in rows.updates if update.round == one.number):
            learning.put_update(row.id, one.number, update.client, **{
                name: getattr(update, name) for name in
                ("outcome", "reason", "examples", "metrics", "began", "ended", "validated", "validation_began", "validation_ended")
            })  # fmt: skip
        if one.model:
            parent = learning.add_model(a_model(one.model, row.id, one.number, parent)).id
            learning.close_round(row.id, one.number, "DONE", parent)
    learning.add_measures(rows.measures)
    again = "6f0a9a51-0b0e-4a70-8d3c-3f1c52d2a001"
    learning.create_session(again, name="again", user="boris", project="", key="a", configuration="{}", package="a" * 64)
    branch = "90000000-0000-4000-8000-00000000000{}"
    learning.add_model(a_model(branch.format(1), again, 0, "00000003-0000-4000-8000-000000000000"))
    learning.add_model(a_model(branch.format(2), again, 1, branch.format(1)))
    return learning.set_state(row.id, "RUNNING")


def a_model(id: str, session: str, round: int, parent: str | None) -> ModelRow:
    return ModelRow(id, session, round, parent, MOMENT, f"nowhere/{id}", 4096, "0" * 64, 1000.0, {"loss": 1 / (round + 1)}, 10)


def test_a_session_is_steered_and_its_model_taken(page: Page, centre: Centre, paused: SessionRow, folder: Path) -> None:
    sign_in(page, then="/ui/learning")
    page.get_by_role("link", name="half-way").click()
    mark = page.locator(".fem-mark").first
    expect(mark).to_contain_text("paused")
    page.get_by_role("button", name="Continue").click()
    expect(mark).to_contain_text("running")
    # As the first round ends, and with no reload: its metrics, the boxes, its model.
    expect(page.get_by_role("img", name=re.compile("^loss across clients, train: in round [12] the median of"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Where each model came from: 2 models"))).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("It pauses once the round that is under way is over.")).to_be_visible()
    # A question that is asked meanwhile stays until it is answered.
    page.get_by_role("button", name="Stop").click()
    (folder / "go").touch()
    expect(mark).to_contain_text("paused")
    page.get_by_role("button", name="Stop it").click()
    expect(mark).to_contain_text("stopped")
    with page.expect_download() as found:
        page.get_by_role("link", name="Download round 1", exact=True).click()
    model = next(one for one in centre.records.learning.models(paused.id) if one.round == 1)
    assert len(Path(found.value.path()).read_bytes()) == model.size
    assert until(lambda: centre.records.learning.find_session(paused.id)).state == "STOPPED"
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_what_a_long_session_shows(page: Page, long: SessionRow) -> None:
    sign_in(page, then=f"/ui/learning/{long.id}")
    expect(page.get_by_role("img", name=re.compile("^loss after each round"))).to_be_visible()
    page.get_by_role("combobox", name="Metric").click()
    page.get_by_role("option", name="accuracy").click()
    expect(page.get_by_role("img", name=re.compile("^accuracy across clients, train: in round 10"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^loss"))).to_have_count(0)
    expect(page.get_by_role("region", name="Rounds").get_by_role("row", name=re.compile("^10 OPEN"))).to_be_visible()
    # The other session is of boris, and in no project: anna does not see what came of round 3.
    expect(page.get_by_role("img", name=re.compile("^Where each model came from: 9 models in 1 branch"))).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_text("The numbers").last.click()
    expect(page.get_by_role("region", name="Where each model came from").get_by_role("row")).to_have_count(10)


def test_an_auditor_sees_all_and_steers_nothing(page: Page, long: SessionRow) -> None:
    sign_in(page, "aude", f"/ui/learning/{long.id}")
    expect(page.get_by_role("img", name=re.compile("^Where each model came from: 11 models in 2 branches"))).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("row", name=re.compile(f"session .*{long.id}"))).to_be_visible()


def test_nobody_sees_what_is_not_his(page: Page, long: SessionRow) -> None:
    sign_in(page, "boris")
    answer = page.goto(f"/ui/learning/{long.id}")
    assert answer is not None
    assert answer.status == 404
    said = page.get_by_role("alert").inner_text()
    page.goto("/ui/learning/00000000-0000-5000-8000-000000000000")
    assert page.get_by_role("alert").inner_text() == said
    assert page.request.get("/ui/models/00000001-0000-4000-8000-000000000000/file").status == 404
    page.goto("/ui/learning")
    expect(page.get_by_role("link", name="digits")).to_have_count(0)
    assert page.goto("/ui/audit").status == 403  # type: ignore[union-attr]
    assert page.request.get("/ui/accounting/csv?by=user").text().count("\n") == 1


def test_variants_beside_each_other(page: Page) -> None:
    sign_in(page, then="/ui/simulations")
    page.get_by_role("link", name="small").click()
    comparison = page.get_by_role("region", name="Comparison of the variants")
    expect(comparison.get_by_role("row", name=re.compile("^<b>prox"))).to_be_visible()
    settings = page.get_by_role("region", name="What is not as by default")
    expect(settings.get_by_role("row").nth(1)).to_contain_text("algorithms.federated_algorithm")
    metric = page.get_by_role("img", name=re.compile("^Metric of the evaluation, at the end: fedavg .*, <b>prox"))
    expect(metric).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^How often devices were selected: "))).to_have_count(2)
    page.get_by_role("button", name=re.compile("Remove")).nth(1).click()
    expect(page.get_by_role("img", name=re.compile("^How often devices were selected: "))).to_have_count(1)
    for name in ("small%2F..", "nowhere"):
        assert page.request.get(f"/ui/simulations/{name}").status == 404, name


def test_accounting_by_what_is_asked(page: Page, paused: SessionRow) -> None:
    sign_in(page, then="/ui/accounting")
    expect(page.get_by_role("region", name="Usage").get_by_role("row", name=re.compile("^anna-of-pages"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Runs by user: anna-of-pages has most"))).to_be_visible()
    page.get_by_role("combobox", name="When").click()
    page.get_by_role("option", name="each day").click()
    page.get_by_role("combobox", name="Who or what").click()
    page.get_by_role("option", name="by node").click()
    expect(page.get_by_role("img", name=re.compile("^Runs each day: "))).to_be_visible()
    page.wait_for_url("**by=node&period=day")
    link = page.get_by_role("link", name="Download as CSV")
    expect(link).to_have_attribute("href", "/ui/accounting/csv?by=node&period=day")
    with page.expect_download() as found:
        link.click()
    rows = list(csv.DictReader(io.StringIO(Path(found.value.path()).read_text())))
    assert {"site-a", "site-b"} <= {row["node"] for row in rows}
    page.get_by_label("Until").fill("2001-01-01")
    expect(page.get_by_text("Nothing was used then.")).to_be_visible()


def test_everybody_can_use_it(page: Page, long: SessionRow, paused: SessionRow) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    sign_in(page, "aude")
    for path in ("learning", f"learning/{long.id}", "simulations", "simulations/small", "accounting", "accounting?period=month", "audit"):
        page.goto(f"/ui/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".main-svg, .q-table").first).to_be_visible()
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            expect(page.locator("body")).to_have_class(re.compile(f"body--{scheme}"))
            assert serious(page) == [], f"{path}, {scheme}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{path} is wider than a phone"
