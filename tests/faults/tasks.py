"""Faults of tasks: each ends as what it is, and no neighbour is harmed."""

from __future__ import annotations

from collections.abc import Iterator

from fdn_worker.protocol import State
from tests.faults.ground import MIB, Case, Ground
from tests.faults.matrix import fault

FAILED = frozenset({State.FAILED})
#: What a task may leave in the stead of a plain file -> the code with which it is refused.
OUTPUTS = {
    "ln -s /etc/passwd out.txt": "output-refused",
    "mkfifo out.txt": "output-refused",
    "echo x > a; ln a out.txt": "output-refused",
    "truncate -s 900M out.txt": "output-too-big",
    "mkdir out.txt": "output-missing",
}
#: Image, digest, and the code with which it is refused.
IMAGES = (("fem-nothing:1", None, "image-missing"), ("fem-busybox:1", "sha256:" + "0" * 64, "digest-differs"))
BOMB = 'pwd >> "$1"; i=0; while [ $i -lt 500 ]; do sleep 100 & i=$((i+1)); done; wait'


@fault(31, "log flood")
def log_flood(ground: Ground) -> Iterator[None]:
    case = ground.send('pwd >> "$1"; yes 0123456789012345678901234567890123456789 | head -n 200000; echo x > out.txt')
    yield
    assert ground.rig.result(case.submission, 100).report.lines_dropped > 100_000


@fault(31, "output flood")
def output_flood(ground: Ground) -> Iterator[None]:
    yield from _fails(ground, f'pwd >> "$1"; head -c {64 * MIB} /dev/zero > out.txt', "output-too-big")


@fault(35, "link, pipe or hollow file as output")
def strange_output(ground: Ground) -> Iterator[None]:
    script = ground.chance.choice(sorted(OUTPUTS))
    yield from _fails(ground, f'pwd >> "$1"; {script}', OUTPUTS[script])


@fault(34, "out of memory", kind="docker")
def out_of_memory(ground: Ground) -> Iterator[None]:
    yield from _fails(ground, 'pwd >> "$1"; head -c 300000000 /dev/zero | tail; exit 0', "out-of-memory", memory=64 * MIB)


@fault(34, "fork bomb", kind="docker", weight=2)
def fork_bomb(ground: Ground) -> Iterator[None]:
    yield from _fails(ground, BOMB, "exit-code")


@fault(36, "image missing, or another than its digest says", kind="docker")
def image_missing(ground: Ground) -> Iterator[None]:
    """Refused, or failed as what it is; nothing is started."""
    image, digest, code = ground.chance.choice(IMAGES)
    case = ground.send(image=image, image_digest=digest, ends=frozenset({State.FAILED, State.REJECTED}))
    case.never = True
    yield
    reason = ground.rig.result(case.submission).reason
    assert reason is not None
    assert reason.code == code, reason


def _fails(ground: Ground, script: str, code: str, **more: object) -> Iterator[None]:
    case: Case = ground.send(script, ends=FAILED, **more)
    yield
    reason = ground.rig.result(case.submission, 100).reason
    assert reason is not None
    assert reason.code == code, reason
