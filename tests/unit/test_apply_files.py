"""prefect.yaml and federation.yaml as `fem apply` reads them: wrong keys are told, which Prefect would pass over."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.catalogue.document import CatalogueError
from flows.apply_files import DeploymentsFile, FederationFile, read

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"FEM_BLOCKS": "default", "FEM_REPOSITORY": "https://git.example/federation.git", "FEM_BRANCH": "main"}


def federation(tmp_path: Path, text: str, environment: dict[str, str] = ENVIRONMENT) -> FederationFile:
    file = tmp_path / "federation.yaml"
    file.write_text(text)
    return read(file, FederationFile, environment)


def test_ours_are_read() -> None:
    deployments = read(ROOT / "prefect.yaml", DeploymentsFile, ENVIRONMENT)
    [step] = deployments.pull
    assert step["prefect.deployments.steps.git_clone"] == {"repository": "https://git.example/federation.git", "branch": "main"}
    for deployment in deployments.deployments:
        assert "federation" in deployment.tags, "automations match runs by it"
        assert deployment.work_pool.name == "federation"
        assert deployment.work_pool.job_variables["env"]["FEM_BLOCKS"] == "default"
    declared = read(ROOT / "deployments/prefect/federation.yaml", FederationFile, ENVIRONMENT)
    assert {deployment.work_pool.name for deployment in deployments.deployments} <= set(declared.work_pools)
    assert declared.federation_blocks == "default"


def test_an_entry_with_when_is_there_only_with_its_variable() -> None:
    file = ROOT / "deployments/prefect/federation.yaml"
    without = read(file, FederationFile, ENVIRONMENT)
    told = read(file, FederationFile, ENVIRONMENT | {"FEM_ALERT_URL": "https://alerts.example/"})
    assert set(told.blocks) - set(without.blocks) == {"webhook/federation-alerts"}
    assert set(told.automations) - set(without.automations) == {"federation-failed-executions"}
    assert told.blocks["webhook/federation-alerts"].values["url"] == "https://alerts.example/"


def test_a_missing_variable_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"federation\.yaml:2: federation_blocks: variable FEM_BLOCKS is not set"):
        federation(tmp_path, 'name: ours\nfederation_blocks: "{{ $FEM_BLOCKS }}"\n', {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: ours\nwork_pool: {}\n", r":2: work_pool: unknown key, did you mean work_pools\?"),
        ("name: ours\nwork_pools:\n  a: {typ: process}\n", r":3: work_pools\.a\.typ: unknown key, did you mean type\?"),
        ("name: ours\nautomations:\n  a:\n    triger: {}\n    actions: []\n", r":4: automations\.a\.triger: unknown key, did you mean trigger\?"),
        ("name: ours\nwork_pools:\n  a: {concurrency_limit: 0}\n", r":3: work_pools\.a\.concurrency_limit: .*greater than 0"),
        ("name: Ours\n", r":1: name: 'Ours' is not allowed"),
        ("name: ours\nwork_pools: {", r"half edited"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=told):
        federation(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("    entrypoint:", "    entry_point:"), r"entry_point: unknown key, did you mean entrypoint\?"),
        (("slug: merges, ", ""), r"slug: is required"),
        (("interval: 300", "interval: 300, cron: '* * * * *'"), "give one of cron, interval and rrule"),
        (("collision_strategy: ENQUEUE", "collision_strategy: WAIT"), "collision_strategy"),
    ],
)  # fmt: skip
def test_so_is_what_is_wrong_with_a_deployment(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert change[0] in text
    (tmp_path / "prefect.yaml").write_text(text.replace(*change))
    with pytest.raises(CatalogueError, match=told):
        read(tmp_path / "prefect.yaml", DeploymentsFile, ENVIRONMENT)
