"""What a researcher asks for: each thing that is wrong is named, with how to mend it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import now
from fdn_worker.protocol.names import run_id
from federation.request import BadRequest, TaskRequest, build
from tests.unit.helpers import EXECUTION

COMMIT = "0f" * 20
SOURCE = {"repository": "https://x.org/y", "commit": COMMIT}


def order_of(**fields: Any) -> Any:
    request = build(TaskRequest, **{"node": "site-a", "argv": ["true"]} | fields)
    return request.order(EXECUTION, run_id(EXECUTION, request.task, request.node), 1, (), now())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"argv": []}, "argv: the command is empty (name what to run)"),
        ({"argv": [" "]}, "argv: the command's name is empty"),
        ({"argv": ["a\0"]}, "argv.0: 'a\\x00' is not allowed"),
        ({"argv": None}, "argv: Input should be a valid tuple"),
        ({"node": "Site_A"}, "node: 'Site_A' is not allowed (use 1 to 63 of a-z, 0-9 and -, with no - at either end)"),
        ({"nod": "x"}, "nod: unknown, did you mean node?"),
        ({"memmory": "2GB"}, "memmory: unknown, did you mean memory?"),
        ({"memory": "2GBB"}, "memory: '2GBB' is no size (write bytes, or such as 512MiB or 2GB)"),
        ({"memory": "-1"}, "memory: '-1' is no size"),
        ({"disk": "lots"}, "disk: 'lots' is no size"),
        ({"memory": "1MB"}, "memory: Input should be greater than or equal to 6291456"),
        ({"memory": "9" * 400 + "GB"}, "is no size"),
        ({"cpus": 0}, "cpus: Input should be greater than 0"),
        ({"cpus": 5000}, "cpus: Input should be less than or equal to 4096"),
        ({"gpus": 2000}, "gpus: Input should be less than or equal to 1024"),
        ({"image": "-v"}, "image: '-v' is not allowed (an image reference has no spaces and does not begin with -)"),
        ({"image": "a b"}, "image: 'a b' is not allowed"),
        ({"image": ""}, "image: "),
        ({"image": "a" * 600}, "image: "),
        ({"image_digest": "sha256:1"}, "image_digest: 'sha256:1' is not allowed (write sha256: and 64 hexadecimal digits)"),
        ({"outputs": ["../x"]}, "outputs.0: path '../x' must be relative, without '..', '.' or empty parts"),
        ({"outputs": ["ok", "/etc/passwd"]}, "outputs.1: path '/etc/passwd' must be relative"),
        ({"outputs": ["a/../../b"]}, "outputs.0: path 'a/../../b' must be relative"),
        ({"outputs": ["a\nb"]}, "outputs.0: path 'a\\nb' holds a control character"),
        ({"datasets": ["../census"]}, "datasets.0: '../census' is not allowed"),
        ({"environment": {"A=B": "x"}}, "a variable's name has letters, digits and _"),
        ({"timeout": -1}, "timeout: Input should be greater than 0"),
        ({"timeout": float("inf")}, "timeout: Input should be a finite number"),
        ({"timeout": 1e14}, "timeout: 1e+14 seconds lead beyond the calendar (give fewer)"),
        ({"timeout": 1e12}, "timeout: 1e+12 seconds lead beyond the calendar (give fewer)"),
        ({"timeout": 1e9}, "is more than 3,650 days away (give a nearer deadline or timeout)"),
        ({"deadline": "9999-12-31T23:59:59Z"}, "deadline: 9999-12-31 is more than 3,650 days away"),
        ({"deadline": "2030-01-01T00:00:00"}, "deadline: Input should have timezone info"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline: 2020-01-01 00:00:00 UTC has passed (give a moment to come)"),
        ({"repository": "https://x.org/y"}, "repository and commit go together: a commit is what makes the source the same for all"),
        ({"commit": COMMIT}, "repository and commit go together"),
        (SOURCE | {"commit": "main"}, "commit: 'main' is not allowed (give the whole commit id, 40 hexadecimal digits)"),
        (SOURCE | {"repository": "git@x.org:y"}, "repository: repository 'git@x.org:y' must be an https:// address"),
        ({"image_signature": "A" * 86 + "=="}, "image_signature is that of a digest: give image_digest, too"),
        ({"image_signature": "abc"}, "image_signature: 'abc' is not allowed"),
        ({"retries": 1000}, "retries: Input should be less than or equal to 100"),
        ({"task": "a.b"}, "task: 'a.b' is not allowed"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        order_of(**fields)
    assert said in str(caught.value)
    assert not str(caught.value).startswith(":")
    assert "\n" not in str(caught.value)
    assert (caught.value.code, caught.value.fault) == ("bad-request", Fault.USER)


def test_several_things_are_named_together() -> None:
    with pytest.raises(BadRequest) as caught:
        order_of(memory="2GBB", cpus=-1, imagee="x")
    assert {part.partition(":")[0] for part in str(caught.value).split("; ")} == {"memory", "cpus", "imagee"}


def test_what_is_asked_for_stands_in_the_order() -> None:
    order = order_of(
        argv=["a", "b c"], image="x:1", environment={"A": "b"}, datasets=["census"], outputs=["*.csv"], cpus=2, memory="2GiB",
        gpus=1, disk="5GB", network=True, timeout=60, user="ada", project="p", tool="t", **SOURCE,
    )  # fmt: skip
    assert (order.argv, order.image, order.environment, order.datasets, order.outputs) == (
        ("a", "b c"), "x:1", {"A": "b"}, ("census",), ("*.csv",))  # fmt: skip
    resources = order.resources
    assert (resources.cpus, resources.memory, resources.gpus, resources.disk) == (2.0, 2 * 1024**3, 1, 5 * 1000**3)
    assert (order.network, order.timeout, order.source.commit) == (True, 60.0, COMMIT)
    assert (order.labels.user, order.labels.project, order.labels.tool) == ("ada", "p", "t")
    assert order.deadline - order.issued == timedelta(days=1, seconds=60)


def test_a_deadline_is_kept() -> None:
    moment = now() + timedelta(minutes=5)
    assert order_of(deadline=moment).deadline == moment


def files(*inputs: str) -> dict[str, Path]:
    return build(TaskRequest, node="site-a", argv=["true"], inputs=inputs).files()


def test_inputs_have_names() -> None:
    assert files() == {}
    assert files("/x/a.csv", "b=/y/a.csv", "sub/c=d=e") == {"a.csv": Path("/x/a.csv"), "b": Path("/y/a.csv"), "sub/c": Path("d=e")}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["/x/a", "/y/a"], "inputs: two files are named a (give one another name: NAME=PATH)"),
        (["a=/x", "b=/x", "a=/y", "b=/z"], "inputs: two files are named a, b"),
        (["a=/x", "a/b=/y"], "inputs: a/b lies below another input (give one another name: NAME=PATH)"),
    ],
)
def test_inputs_of_one_name(inputs: list[str], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        files(*inputs)
    assert said in str(caught.value)
