"""The table of commands behind `fem --help`: it imports none of them, and tells what each of them would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flows.cli import COMMANDS, app

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_is_the_first_sentence_of_the_commands_help(name: str) -> None:
    command = typer.main.get_group(app).commands[name]
    assert COMMANDS[name][1] == command.get_short_help_str(limit=1000)


def test_help_imports_no_command() -> None:
    script = "import sys; from flows.cli import app; app(['--help'], standalone_mode=False); print([n for n in sys.modules if 'flows.cli_' in n])"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told.endswith("\n[]\n")
    assert [name for name in COMMANDS if f"\n  {name} " not in told] == []


def test_a_name_like_a_command_is_told() -> None:
    ran = subprocess.run([sys.executable, "-m", "flows.cli", "staus"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (ran.returncode, "Did you mean 'status'?" in ran.stderr) == (2, True)
