"""The command `fem`, as a person types it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from federation.centre import Centre
from tests.support.child import child
from tests.support.waiting import SOON

from .conftest import Run


def execution_in(completed: subprocess.CompletedProcess[str]) -> str:
    word = completed.stderr.partition("execution ")[2].split()[0]
    assert len(word) == 36, completed.stderr
    return word


def test_run_shows_states_lines_and_outputs_and_all_else_finds_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "question.txt").write_text("how old?\n")
    script = 'cat "$INPUT_PATH/question.txt"; cut -d, -f2 "$DATA_PATH/patients/patients.csv" > ages.csv; echo done'
    ran = run(
        "fem", "run", "--node", "site-a", "--dataset", "patients", "--input", "question.txt", "--output", "*.csv",
        "--user", "ada", "--project", "ages", "--", "/bin/sh", "-c", script,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for expected in ("ACCEPTED", "RUNNING", "site-a | how old?", "site-a | done", "SUCCEEDED", "outputs/ages.csv"):
        assert expected in ran.stderr
    execution = execution_in(ran)

    status = json.loads(run("fem", "status", execution[:8], "--json").stdout)
    assert [(row["node"], row["state"], row["attempt"]) for row in status] == [("site-a", "SUCCEEDED", 1)]
    assert execution in run("fem", "status").stdout
    latest = json.loads(run("fem", "status", "--json", "--limit", "100").stdout)
    assert next(row for row in latest if row["execution"] == execution)["user"] == "ada"

    assert run("fem", "logs", execution).stdout.splitlines() == ["how old?", "done"]
    lines = run("fem", "logs", execution, "--json").stdout.splitlines()
    assert [json.loads(line)["line"] for line in lines] == ["how old?", "done"]

    files = json.loads(run("fem", "files", execution, "--json").stdout)
    assert {file["path"] for file in files} == {"outputs/ages.csv", "logs/run.log"}
    fetched = run("fem", "download", execution, "--to", "here")
    assert fetched.returncode == 0
    assert (tmp_path / "here/site-a/outputs/ages.csv").read_text() == "age\n61\n48\n75\n"
    assert (tmp_path / "here/site-a/logs/run.log").read_text() == "how old?\ndone\n"


def test_json_is_the_result_alone(run: Run) -> None:
    ran = run("fem", "run", "--node", "site-a", "--json", "--", "/bin/echo", "hello")
    result = json.loads(ran.stdout)
    assert (ran.returncode, result["state"], result["tail"]) == (0, "SUCCEEDED", ["hello"])
    assert [stage["state"] for stage in result["stages"]] == ["ACCEPTED", "STAGING_IN", "RUNNING", "STAGING_OUT", "SUCCEEDED"]


def test_exit_code_1_when_the_task_fails(run: Run) -> None:
    ran = run("fem", "run", "--node", "site-a", "--", "/bin/sh", "-c", "echo why >&2; exit 7")
    assert ran.returncode == 1
    assert "the task ended with exit code 7" in ran.stderr
    assert "site-a | why" in ran.stderr


def test_exit_code_4_when_the_node_refuses(run: Run) -> None:
    ran = run("fem", "run", "--node", "site-b", "--dataset", "patients", "--", "/bin/true")
    assert ran.returncode == 4
    assert "node site-b has no dataset 'patients'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_ctrl_c_cancels_at_the_node(environment: dict[str, str], run: Run, centre: Centre) -> None:
    words = ["fem", "run", "--node", "site-a", "--user", "ctrl-c", "--", "/bin/sh", "-c", "trap '' TERM; echo up; sleep 60"]
    with child(words, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while "| up" not in seen:
            seen += (line := process.stderr.readline())
            assert line, seen
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(SOON) == 130, rest
    assert "CANCELLED" in rest
    [execution] = centre.records.executions(user="ctrl-c")
    assert [row.state for row in centre.records.runs_of(execution.id)] == ["CANCELLED"]


def test_cancel_from_elsewhere_is_confirmed(environment: dict[str, str], run: Run, centre: Centre) -> None:
    words = ["fem", "run", "--node", "site-b", "--user", "elsewhere", "--", "/bin/sh", "-c", "echo up; sleep 60"]
    with child(words, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while "| up" not in (line := process.stderr.readline()):
            assert line
        [execution] = centre.records.executions(user="elsewhere")
        followed = subprocess.Popen(["fem", "logs", "-f", execution.id], env=environment, stdout=subprocess.PIPE, text=True)
        cancelled = run("fem", "cancel", execution.id[:8])
        assert (cancelled.returncode, cancelled.stdout) == (0, "site-b: CANCELLED\n")
        process.stderr.read()
        assert process.wait(SOON) == 130
    assert followed.communicate(timeout=SOON)[0].splitlines()[0] == "up"


def test_nodes_shows_presence(run: Run) -> None:
    nodes = {node["name"]: node for node in (json.loads(run("fem", "nodes", "--json").stdout))}
    assert nodes["site-a"]["presence"] == "connected"
    assert nodes["site-a"]["datasets"] == ["patients"]
    assert "connected" in run("fem", "nodes").stdout


BAD = {
    "unknown node": (["--node", "site-c"], "node 'site-c' is not enrolled (enrolled are: site-a, site-b)"),
    "climbing output": (["--node", "site-a", "--output", "../x"], "outputs.0: path '../x' must be relative"),
    "memory": (["--node", "site-a", "--memory", "2GBB"], "memory: '2GBB' is no size (write bytes, or such as 512MiB or 2GB)"),
    "deadline": (["--node", "site-a", "--deadline", "2020-01-01T00:00:00Z"], "deadline: 2020-01-01 00:00:00 UTC has passed"),
    "missing input": (["--node", "site-a", "--input", "nowhere.csv"], "input nowhere.csv: No such file or directory (mend its path)"),
    "environment": (["--node", "site-a", "--env", "A-B=1"], "environment.A-B"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, centre: Centre, what: str) -> None:
    options, message = BAD[what]
    before = len(centre.records.executions(limit=1000))
    ran = run("fem", "run", *options, "--", "/bin/true")
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert len(centre.records.executions(limit=1000)) == before, "nothing half-done"


def test_no_command_is_bad_usage(run: Run) -> None:
    ran = run("fem", "run", "--node", "site-a", "--")
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    empty = run("fem", "run", "--node", "site-a", "--", "")
    assert (empty.returncode, empty.stderr) == (2, "fem: argv: the command's name is empty\n")


@pytest.mark.parametrize("words", [("status", "zzz"), ("logs", "zzz"), ("files", "zzz"), ("download", "zzz"), ("cancel", "zzz")])
def test_unknown_executions_are_named(run: Run, words: tuple[str, ...]) -> None:
    ran = run("fem", *words)
    assert ran.returncode == 2
    assert ran.stderr == "fem: 'zzz' is no execution's id or the beginning of one\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FEM_BROKER_URL": "amqp://guest:guest@127.0.0.1:1/", "FEM_KEY": "KEY"}, "127.0.0.1:1"),
        ({"FEM_STORE_URL": "s3+http://a:b@127.0.0.1:1/bucket"}, "127.0.0.1:1"),
        ({"FEM_RECORDS_URL": "sqlite:////proc/nowhere/records.db"}, "/proc/nowhere"),
    ],
)
def test_what_cannot_be_reached_is_named_with_exit_code_3(run: Run, tmp_path: Path, variables: dict[str, str], message: str) -> None:
    from fdn_worker.protocol.envelope import make_key

    make_key(tmp_path / "key")
    (tmp_path / "in").write_text("x")
    variables = {name: value.replace("KEY", str(tmp_path / "key")) for name, value in variables.items()}
    ran = run("fem", "run", "--node", "site-a", "--input", "in", "--", "/bin/true", env=variables)
    assert ran.returncode in (2, 3)
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_help_needs_neither_prefect_nor_pydantic(run: Run) -> None:
    import sys

    code = (
        "import sys, flows.cli, fdn_worker.cli; print([name for name in ('prefect', 'pydantic', 'docker', 'pika') if name in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout == "[]\n"
    helped = run("fem", "--help")
    assert helped.returncode == 0
    for command in ("run", "status", "logs", "files", "download", "cancel", "nodes"):
        assert command in helped.stdout
