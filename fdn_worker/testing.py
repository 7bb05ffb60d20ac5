"""Contract tests for launchers, for whoever writes one: subclass LauncherContract in a test module, give the fixtures.

    class TestMine(LauncherContract):
        @pytest.fixture
        def make_launcher(self): ...       # () -> a new Launcher on the same engine
        @pytest.fixture
        def launcher(self, make_launcher): return make_launcher()
        @pytest.fixture
        def make_spec(self, ...): ...      # (*argv, **changes of LaunchSpec) -> LaunchSpec with a name and a sandbox of its own
        SERVER = (...)                     # for a launcher that is `Serving`, see there

Tasks need `/bin/sh` and the usual small tools. Clearing up is the fixtures' work. `examples/launcher-plugin` has a whole one.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fdn_worker.errors import FdnError, RunVanished, TaskFailed
from fdn_worker.launchers import Exit, Launcher, LaunchSpec, LogLine, Serving

MakeLauncher = Callable[[], Launcher]
MakeSpec = Callable[..., LaunchSpec]

#: What LauncherContract.SERVER asks for, as a Python script with the port as its argument.
HELLO = """
import os, socket, sys, time
while not os.path.exists("go"):
    time.sleep(0.02)
client, _ = socket.create_server(("127.0.0.1", int(sys.argv[1]))).accept()
client.sendall(b"hello\\n")
"""
#: Waits for the file `go` in the sandbox, 20 s at most.
_WAIT_FOR_GO = "i=0; while [ ! -e go ]; do i=$((i+1)); [ $i -gt 400 ] && exit 99; sleep 0.05; done"


def run(launcher: Launcher, spec: LaunchSpec, after: str = "") -> tuple[Exit, list[LogLine]]:
    """Start, follow to the end; the exit and the lines."""
    lines: list[LogLine] = []
    launcher.start(spec)
    return launcher.follow(spec.name, lines.append, after), lines


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


@contextmanager
def refused(kind: type[FdnError], code: str) -> Iterator[None]:
    """Inside, an error of that kind and code must be raised."""
    raised: FdnError | None = None
    try:
        yield
    except kind as error:
        raised = error
    assert raised is not None, f"{kind.__name__} was not raised"
    assert raised.code == code, f"code is {raised.code}, not {code}"
    assert "\n" not in str(raised), "an error's message has one line"


class LauncherContract:
    """What every launcher must do."""

    #: argv of a task that waits for the file `go`, listens at $PORT_8080 and says hello to a client; () if there is none.
    SERVER: tuple[str, ...] = ()

    def test_exit_code_lines_and_times(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        ended, lines = run(launcher, make_spec("/bin/sh", "-c", "echo one; echo two >&2; printf three; exit 7"))
        assert ended.code == 7
        assert sorted(texts(lines)) == ["one", "three", "two"]
        assert not ended.out_of_memory
        assert ended.started <= ended.finished
        assert ended.started.tzinfo is not None

    def test_lines_in_order_and_resumed_from_any_cursor(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done")
        _, lines = run(launcher, spec)
        assert texts(lines) == [f"line {i}" for i in range(1, 6)]
        for number, line in enumerate(lines, 1):
            assert texts(run(launcher, spec, after=line.cursor)[1]) == texts(lines[number:])

    def test_lines_come_while_the_task_runs(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", f"echo ready; {_WAIT_FOR_GO}")
        launcher.start(spec)
        assert launcher.follow(spec.name, lambda _: (spec.sandbox / "go").touch()).code == 0

    def test_long_and_undecodable_lines(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        script = r"head -c 40000 /dev/zero | tr '\0' x; echo; head -c 100000 /dev/zero | tr '\0' y; echo; printf 'a\377b\n'; echo; echo end"
        _, lines = run(launcher, make_spec("/bin/sh", "-c", script))
        first, second, *rest = texts(lines)
        assert first == "x" * 40000
        assert second == "y" * 65536 + " [cut: the line has 100000 bytes]"
        assert rest == ["a\ufffdb", "", "end"]

    def test_places_are_filled_in_and_other_dollars_stay(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec(
            "/bin/sh", "-c", 'printf "%s\\n" "$@" "$MINE" "$NODE_NAME" "$HOME" "$PWD"', "sh",
            "$NODE_NAME", "${NODE_NAME}.x", "$NODE_NAMES", "$OTHER", "$$", "$", "${", "a$SANDBOX_PATH/b",
            environment={"MINE": "at ${NODE_NAME}: $MINE", "NODE_NAME": "forged"},
        )  # fmt: skip
        said = texts(run(launcher, spec)[1])
        assert said[:7] == [spec.node, f"{spec.node}.x", "$NODE_NAMES", "$OTHER", "$$", "$", "${"]
        assert said[8:10] == [f"at {spec.node}: $MINE", spec.node]
        sandbox = said[11]
        assert said[7] == f"a{sandbox}/b"
        assert said[10] == sandbox

    def test_secrets_are_files_that_the_task_alone_is_shown(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        # A worker hands over a folder in memory.
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        try:
            (folder / "token").write_text("open sesame\n")
            (folder / "token").chmod(0o400)
            script = 'wc -c < "$1"; grep -c sesame "$SECRETS_PATH/token"; env | grep -c sesame'
            spec = make_spec("/bin/sh", "-c", script, "sh", "$SECRETS_PATH/token", secrets=folder)
            assert [text.strip() for text in texts(run(launcher, spec)[1])] == ["12", "1", "0"]
        finally:
            shutil.rmtree(folder)

    def test_the_sites_variables(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        script = 'printf "%s\\n" "$1" "$LEVEL" "$MINE"'
        environment, variables = {"MINE": "${LEVEL}!", "LEVEL": "forged"}, {"LEVEL": "3"}
        spec = make_spec("/bin/sh", "-c", script, "sh", "l$LEVEL", environment=environment, variables=variables)
        assert texts(run(launcher, spec)[1]) == ["l3", "3", "3!"]

    def test_a_server_listens_where_it_was_told(self, make_launcher: MakeLauncher, make_spec: MakeSpec) -> None:
        launcher = make_launcher()
        if not (isinstance(launcher, Serving) and self.SERVER):
            return
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        spec = make_spec(*self.SERVER, ports={8080: port}, bind="127.0.0.1", network=True)
        launcher.start(spec)
        assert launcher.listening(spec.name, spec.ports) == set()
        (spec.sandbox / "go").touch()
        again = make_launcher()
        assert isinstance(again, Serving)
        until = time.monotonic() + 20
        while again.listening(spec.name, spec.ports) != {8080}:
            assert time.monotonic() < until, "it is not seen to listen"
            time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            assert client.recv(99) == b"hello\n"

    def test_only_the_orders_environment(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        _, lines = run(launcher, make_spec("/bin/sh", "-c", "env", environment={"MINE": "yes"}))
        names = {line.partition("=")[0] for line in texts(lines)}
        places = {"DATA_PATH", "SANDBOX_PATH", "INPUT_PATH", "SOURCE_PATH", "NODE_NAME", "SECRETS_PATH"}
        assert names - {"PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME"} == places | {"MINE", "HOME", "PATH"}

    def test_folders(self, launcher: Launcher, make_spec: MakeSpec, tmp_path: Path) -> None:
        for name in ("cohort", "inputs", "source"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        spec = make_spec(
            "/bin/sh", "-c", "cat $DATA_PATH/the-data/file $INPUT_PATH/file $SOURCE_PATH/file > out; ls $DATA_PATH",
            datasets={"the-data": tmp_path / "cohort"}, inputs=tmp_path / "inputs", source=tmp_path / "source",
        )  # fmt: skip
        ended, lines = run(launcher, spec)
        assert (ended.code, texts(lines)) == (0, ["the-data"])
        assert (spec.sandbox / "out").read_text() == "cohortinputssource"

    def test_started_twice_runs_once(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", f"echo x >> count; {_WAIT_FOR_GO}; exit 5")
        launcher.start(spec)
        launcher.start(spec)
        (spec.sandbox / "go").touch()
        assert run(launcher, spec)[0].code == 5
        assert run(launcher, spec)[0].code == 5
        assert (spec.sandbox / "count").read_text() == "x\n"

    def test_adopted_by_another_launcher(self, make_launcher: MakeLauncher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", f"echo begun; {_WAIT_FOR_GO}; echo ended; exit 6")
        make_launcher().start(spec)
        second = make_launcher()
        assert second.names(spec.node) == {spec.name}
        lines: list[LogLine] = []

        def go(line: LogLine) -> None:
            lines.append(line)
            (spec.sandbox / "go").touch()

        assert second.follow(spec.name, go).code == 6
        third = make_launcher()
        ended, again = run(third, spec, after=lines[0].cursor)
        assert (ended.code, texts(again)) == (6, ["ended"])
        assert third.names(spec.node) == {spec.name}

    def test_names_are_of_one_node(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        ours = make_spec("/bin/sh", "-c", "exit 0")
        theirs = replace(make_spec("/bin/sh", "-c", "exit 0"), node=f"{ours.node}-b")
        run(launcher, ours)
        run(launcher, theirs)
        assert launcher.names(ours.node) == {ours.name}
        assert launcher.names(theirs.node) == {theirs.name}

    def test_nothing_there(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh")
        with refused(RunVanished, "vanished"):
            launcher.follow(spec.name, print)
        launcher.stop(spec.name, 1)
        launcher.remove(spec.name)
        assert launcher.names(spec.node) == set()

    def test_stop_ends_a_tree_that_ignores_term(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        beat = "trap '' TERM; while :; do echo >> beats; sleep 0.02; done"
        spec = make_spec("/bin/sh", "-c", f'trap "" TERM; sh -c "{beat}" & (sh -c "{beat}" &) ; echo ready; while :; do sleep 0.1; done')
        launcher.start(spec)
        ready, ends = threading.Event(), []
        follower = threading.Thread(target=lambda: ends.append(launcher.follow(spec.name, lambda _: ready.set())))
        follower.start()
        assert ready.wait(20)
        began = time.monotonic()
        launcher.stop(spec.name, 1.0)
        assert 0.9 < time.monotonic() - began < 3.0
        follower.join(10)
        assert [end.code for end in ends] == [137]
        beats = (spec.sandbox / "beats").stat().st_size
        time.sleep(0.2)
        assert (spec.sandbox / "beats").stat().st_size == beats

    def test_stop_lets_a_task_end_by_itself(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        script = "trap 'echo saved > out; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        spec = make_spec("/bin/sh", "-c", script)
        launcher.start(spec)
        stopper: list[threading.Thread] = []

        def stop(line: LogLine) -> None:
            if line.text == "ready":
                stopper.append(threading.Thread(target=launcher.stop, args=(spec.name, 15.0)))
                stopper[0].start()

        began = time.monotonic()
        ended = launcher.follow(spec.name, stop)
        stopper[0].join(15)
        assert ended.code == 3
        assert time.monotonic() - began < 10
        assert (spec.sandbox / "out").read_text() == "saved\n"

    def test_remove_kills_and_leaves_nothing(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", "sleep 1000")
        launcher.start(spec)
        launcher.remove(spec.name)
        launcher.remove(spec.name)
        assert launcher.names(spec.node) == set()
        with refused(RunVanished, "vanished"):
            launcher.follow(spec.name, print)

    def test_end_by_signal(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        assert run(launcher, make_spec("/bin/sh", "-c", "kill -KILL $$"))[0].code == 137

    def test_what_is_left_running_ends_with_the_task(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", "(while :; do echo >> beats; sleep 0.02; done) & until [ -e beats ]; do sleep 0.01; done; exit 4")
        assert run(launcher, spec)[0].code == 4
        beats = (spec.sandbox / "beats").stat().st_size
        time.sleep(0.2)
        assert (spec.sandbox / "beats").stat().st_size == beats

    def test_usage(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        """Against what the shell says of itself: `times` prints minutes and seconds, user and system."""
        ended, lines = run(launcher, make_spec("/bin/sh", "-c", "i=0; while [ $i -lt 1200000 ]; do i=$((i+1)); done; times"))
        minutes_and_seconds = [word.removesuffix("s").split("m") for word in lines[0].text.split()]
        told = sum(60 * float(minutes) + float(seconds) for minutes, seconds in minutes_and_seconds)
        assert told > 0.3
        # Docker's own start of a container adds about 0.03 s.
        assert abs(ended.usage.cpu_seconds - told) < 0.2 * told + 0.05
        assert ended.usage.peak_memory > 100_000
        assert not ended.usage.estimated

    def test_a_flood_of_lines_does_no_harm(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        ended, lines = run(launcher, make_spec("/bin/sh", "-c", f"yes {'z' * 200} | head -n 50000; exit 2"))
        assert ended.code == 2
        assert 0 < len(lines) <= 50000
        assert {line.text for line in lines} == {"z" * 200}

    def test_file_size_is_limited(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("/bin/sh", "-c", "head -c 3000000 /dev/zero > big; exit 0")
        run(launcher, replace(spec, resources=spec.resources.model_copy(update={"disk": 1_000_000})))
        assert (spec.sandbox / "big").stat().st_size <= 1_000_000

    def test_missing_command(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        spec = make_spec("no-such-command", "x")
        with refused(TaskFailed, "command-not-found"):
            run(launcher, spec)
        launcher.remove(spec.name)
        assert launcher.names(spec.node) == set()

    def test_argv_is_handed_over_as_it_is(self, launcher: Launcher, make_spec: MakeSpec) -> None:
        words = ("a b", "", "*", "`id`", "$(id)", "é\u2603", "-n", "'\"\\")
        _, lines = run(launcher, make_spec("/bin/sh", "-c", 'for word in "$@"; do printf "[%s]\\n" "$word"; done', "sh", *words))
        assert texts(lines) == [f"[{word}]" for word in words]


def spec_of(name: str, node: str, argv: tuple[str, ...], sandbox: Path, **changes: Any) -> LaunchSpec:
    """A spec with nothing but the needful, for `make_spec`."""
    sandbox.mkdir(parents=True, exist_ok=True)
    return replace(LaunchSpec(name=name, node=node, argv=argv, image=None, environment={}, sandbox=sandbox), **changes)
