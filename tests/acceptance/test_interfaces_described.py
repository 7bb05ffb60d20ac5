"""Both interfaces against their descriptions, with requests that schemathesis makes up: each answer is a documented one, and none is a 500."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis.strategies import booleans
from schemathesis import openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from federation.catalogue.folder import load
from federation.centre import Centre
from federation.enrol import enrol
from federation.gateway import checks
from federation.settings import CentreSettings
from federation.sync import carry_out, differing
from tests.support.checkout import ROOT
from tests.unit.gateway import a_gateway, token_of

CHECKS: list[Callable[..., Any]] = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
#: Requests for each endpoint, the same on every machine.
EXAMPLES = 12


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Centre]:
    """A centre of its own with a node that does not answer, since what is made up stays on record."""
    centre = Centre.open(CentreSettings(home=tmp_path / "fem", relay="service", patience=0.2))
    enrol(centre.broker, centre.records, "site-a")
    catalogue = load(ROOT / "deployments/catalogue")
    carry_out(centre, catalogue, differing(centre, catalogue))
    yield centre
    centre.close()


@pytest.fixture
def app(quiet: Centre, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """Nobody waits long for the node."""
    monkeypatch.setattr(checks, "check", partial(checks.check, seconds=0.1))
    return a_gateway(quiet, requests_a_minute=10**6, sign_ins_a_minute=3)


@pytest.mark.parametrize("place", ["/api/v2", "/heart/API/v1"])
def test_each_answer_is_a_documented_one(app: FastAPI, quiet: Centre, place: str) -> None:
    known = str(uuid4())
    quiet.records.create_execution(
        known, user="anna", project="heart", tool="hello", key="k", request_json='{"tool": "hello", "nodes": ["site-a"]}', runs=[]
    )
    quiet.records.close_execution(known, "FAILED", "nothing ran")
    named = {"id": known, "execution": known, "name": "hello", "tool": "hello", "id_": "hello", "node": "site-a"}
    headers = {"Authorization": f"Bearer {token_of(app, 'anna')}"}
    answers: Counter[int] = Counter()

    def answered(case: schemathesis.Case, there: bool) -> None:
        # Some are about what is there: made-up ids find nothing.
        if there:
            case.path_parameters |= {name: named[name] for name in case.path_parameters if name in named}
            case.query |= {name: known for name in case.query if name == "execution_id"}
        answers[case.call_and_validate(headers=headers, checks=CHECKS).status_code] += 1

    bounded = hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
    )
    for found in openapi.from_asgi(f"{place}/openapi.json", app).get_all_operations():
        bounded(hypothesis.given(case=found.ok().as_strategy(), there=booleans())(answered))()
    assert answers[200] > EXAMPLES
    assert answers[404] > EXAMPLES
