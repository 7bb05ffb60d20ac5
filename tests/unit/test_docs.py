"""The documentation against the code: links lead somewhere, and the reference leaves nothing out and makes nothing up."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel, ByteSize, SecretStr
from pydantic_core import PydanticUndefined

import fdn_worker.cli
import fdn_worker.cli_policy
import flows.cli
from fdn_worker.launchers.docker_config import DockerOptions
from fdn_worker.launchers.process import ProcessOptions
from fdn_worker.protocol import MESSAGES, State
from fdn_worker.release.rules import Rule
from fdn_worker.release.tables import CsvOptions
from fdn_worker.release.texts import TextOptions
from fdn_worker.settings import WorkerSettings
from federation.gateway.settings import GatewaySettings
from federation.settings import CentreSettings
from flows import exit_codes
from storage.schema import metadata

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
REFERENCE = DOCS / "reference"
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| `([^`]+)` \| (.*?) \|", re.MULTILINE)

#: Section of settings.md -> the model behind it.
MODELS: dict[str, type[BaseModel]] = {
    "## The node: fdn-worker.toml": WorkerSettings,
    "### [launchers.docker]": DockerOptions,
    "### [launchers.process]": ProcessOptions,
    "## The centre: fem.toml": CentreSettings,
    "## The gateway: [serve]": GatewaySettings,
}
#: The same of release.md.
RELEASE: dict[str, type[BaseModel]] = {"## A rule": Rule, "### Check csv": CsvOptions, "### Check text": TextOptions}
#: Their defaults depend on another setting; the page says how.
DERIVED = {"home", "broker_url", "store_url", "records_url", "root"}


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if fragment:
            assert fragment in {anchor(heading) for heading in re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)}, target


def test_the_index_has_every_page() -> None:
    listed = {(DOCS / target).resolve() for target in LINK.findall((DOCS / "README.md").read_text())}
    assert {page for page in DOCS.rglob("*.md") if page.name != "README.md"} - listed == set()


def section(page: str, heading: str) -> str:
    """From the heading to the next one."""
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#|\Z)", (REFERENCE / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {heading!r}"
    return found[1]


# Settings


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their defaults."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield (
                prefix + name,
                field.get_default(call_default_factory=True, validated_data={}) if not field.is_required() else PydanticUndefined,
            )


def written(default: Any) -> str:
    """A default as the page writes it."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, SecretStr):
        return f"`{json.dumps(default.get_secret_value())}`"
    if isinstance(default, ByteSize):
        return f"`{default.human_readable().replace('.0', '')}`"
    if isinstance(default, Path):
        return f"`{default}`"
    return f"`{json.dumps(int(default) if isinstance(default, float) and default.is_integer() else default)}`"


@pytest.mark.parametrize("heading", [*MODELS, *RELEASE])
def test_settings_names_every_key_with_its_default(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEM_HOME", str(tmp_path))
    told = dict(ROW.findall(section("release.md" if heading in RELEASE else "settings.md", heading)))
    there = dict(keys((MODELS | RELEASE)[heading]))
    assert set(told) == set(there)
    assert {name: told[name] for name in there if name not in DERIVED} == {
        name: written(default) for name, default in there.items() if name not in DERIVED
    }


def test_settings_names_every_variable() -> None:
    told = {name for name, _ in ROW.findall(section("settings.md", "## Other variables"))}
    code = [
        *(ROOT / "fdn_worker").rglob("*.py"),
        *(ROOT / "flows").glob("*.py"),
        *(ROOT / "federation").glob("*.py"),
        ROOT / "prefect.yaml",
        ROOT / "deployments/prefect/federation.yaml",
    ]
    read = {name for path in code for name in re.findall(r"\b(?:FEM|FDN)_[A-Z_]*[A-Z]\b", path.read_text())}
    by_model = (
        {f"FEM_{name.upper()}" for name in CentreSettings.model_fields}
        | {f"FEM_SERVE_{name.upper()}" for name in GatewaySettings.model_fields}
        | {f"FDN_{name.replace('.', '__').upper()}" for name, _ in keys(WorkerSettings)}
    )
    assert read - by_model <= told
    assert told - read - by_model == {"FEM_SERVICES", "DEMO"}


# Commands


def commands(app: typer.Typer, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below `app`, by its whole name."""

    def below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        if words != name:
            yield words, command
        for child_name, child in getattr(command, "commands", {}).items():
            yield from below(child, f"{words} {child_name}")

    yield from below(typer.main.get_command(app), name)


COMMANDS = dict([*commands(flows.cli.app, "fem"), *commands(fdn_worker.cli.app, "fdn-worker")])


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_names_every_option(words: str) -> None:
    text = section("commands.md", f"### {words}")
    there = {option for parameter in COMMANDS[words].params if parameter.param_type_name == "option" for option in parameter.opts} - {
        "--help"
    }
    assert set(re.findall(r"`(-{1,2}[a-z][a-z-]*)`", text)) == there


def test_commands_makes_none_up() -> None:
    told = re.findall(r"^### (.+)$", (REFERENCE / "commands.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(COMMANDS)


def test_commands_has_every_exit_code() -> None:
    codes = {
        exit_codes.SUCCEEDED,
        exit_codes.FAILED,
        exit_codes.USAGE,
        exit_codes.INFRASTRUCTURE,
        exit_codes.REFUSED,
        exit_codes.INTERRUPTED,
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section("commands.md", "## fem"), re.MULTILINE)} == codes
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section("commands.md", "## fdn-worker"), re.MULTILINE)} == {
        0, fdn_worker.cli_policy.NO, fdn_worker.cli.USAGE, fdn_worker.cli.INFRASTRUCTURE
    }  # fmt: skip


# Messages and records


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_names_every_field(kind: str) -> None:
    text = section("messages.md", "## Fields")
    assert f"**{kind}**" in text
    for name in set(MESSAGES[kind].model_fields) - {"version"}:
        assert f"`{name}`" in text, name
    assert f"`{kind}`" in section("messages.md", "## Ways")


def test_messages_names_every_state() -> None:
    text = section("messages.md", "## States")
    assert [state for state in State if state not in text] == []


def test_records_names_every_column() -> None:
    text = (REFERENCE / "records.md").read_text()
    for table in metadata.tables.values():
        [told] = re.findall(rf"^\*\*{table.name}\*\*: (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
        assert {column.name for column in table.columns} - set(re.findall(r"`(\w+)`", told)) == set()


# No addresses


def tracked() -> list[Path]:
    """The files of the repository, those of the next commit included."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_place_to_download_from() -> None:
    """They are each machine's own matter, and would be fetched from by whoever runs this elsewhere."""
    hosts = "|".join(
        (r"docker\.io/", r"ghcr\.io", r"quay\.io", r"gcr\.io", r"pypi\.org", r"pythonhosted\.org", r"github\.com", r"gitlab\.com", r"debian\.org",
         r"proxy\.golang\.org", r"npmjs\.(?:com|org)", r"jsdelivr\.net", r"unpkg\.com", r"huggingface\.co")
    )  # fmt: skip
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        # The name of a module of Go's looks like an address.
        text = text.replace("github.com/minio/minio", "")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in re.findall(rf"\b(?:{hosts})", text)]
    assert found == []
