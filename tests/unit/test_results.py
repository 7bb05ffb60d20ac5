"""The centre's stage-out: the manifest against the store, where any difference is an error."""

from __future__ import annotations

import hashlib
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fdn_worker.errors import Fault, FdnError, ObjectMissing, StoreUnavailable
from fdn_worker.protocol import Manifest, ManifestFile, Message, Reason, Report, Signer, State, Usage, now, pack
from federation import results
from federation.centre import Centre, Submission
from federation.request import TaskRequest
from federation.results import TAIL, ManifestDiffers, OutputFile, download, links, stage_out, stages
from storage.keys import attempt_key
from tests.unit.helpers import SHA, an_event, an_id

FILES = {"outputs/a.csv": b"a,b", "outputs/sub/b": b"", "logs/run.log": b"line\n"}


@pytest.fixture
def submission(centre: Centre) -> Submission:
    return centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "k")


def put(centre: Centre, submission: Submission, path: str, data: bytes) -> None:
    key = attempt_key(submission.execution, submission.task, submission.node, submission.attempt, path)
    centre.store.put(key, io.BytesIO(data), len(data))


def described(path: str, data: bytes) -> ManifestFile:
    return ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def manifest(centre: Centre, submission: Submission, **changes: Any) -> Manifest:
    order = centre.order(submission.run, submission.attempt)
    fields = {"execution": order.execution, "task": order.task, "node": order.node, "run": order.run, "attempt": order.attempt, "at": now()}
    files = tuple(described(path, data) for path, data in FILES.items())
    return Manifest(**{"exit_code": 0, "files": files} | fields | changes)


def leave(centre: Centre, submission: Submission, message: Message | None = None, signer: Signer | None = None, told: str = "") -> None:
    """What a node that ended well leaves: files, manifest and a last event."""
    for path, data in FILES.items():
        put(centre, submission, path, data)
    sealed = pack(message or manifest(centre, submission), signer or Signer())
    put(centre, submission, "manifest.json", sealed)
    report = Report(
        launcher="process", exit_code=0, usage=Usage(cpu_seconds=1.0), manifest_sha256=told or hashlib.sha256(sealed).hexdigest()
    )
    order = centre.order(submission.run, submission.attempt)
    said = [an_event(order, 1, state=State.RUNNING), an_event(order, 2, lines=tuple(map(str, range(30)))),
            an_event(order, 5, state=State.SUCCEEDED, report=report)]  # fmt: skip
    centre.records.record_events(said)


def differs(centre: Centre, submission: Submission, words: str) -> None:
    with pytest.raises(ManifestDiffers) as caught:
        stage_out(centre, submission)
    assert words in str(caught.value)
    assert (caught.value.code, "\n" in str(caught.value)) == ("manifest-differs", False)
    row = centre.records.execution(str(submission.execution))
    assert row is not None
    assert row.state == "OPEN"


def test_a_run_that_ended_well(centre: Centre, submission: Submission) -> None:
    leave(centre, submission)
    result = stage_out(centre, submission)
    assert (result.state, result.node, result.attempt, result.reason) == (State.SUCCEEDED, "site-a", 1, None)
    assert [(file.path, file.size) for file in result.files] == [(path, len(data)) for path, data in FILES.items()]
    assert [file.path for file in result.outputs] == ["outputs/a.csv", "outputs/sub/b"]
    assert result.report.usage.cpu_seconds == 1.0
    assert [(stage.state, stage.seconds) for stage in result.stages] == [(State.RUNNING, 4.0), (State.SUCCEEDED, 0.0)]
    assert result.tail == tuple(map(str, range(30)))[-TAIL:]
    assert result.explain() == "site-a: SUCCEEDED, 2 outputs"
    row = centre.records.execution(str(submission.execution))
    assert row is not None
    assert (row.state, row.closed is None) == ("SUCCEEDED", False)
    assert stage_out(centre, submission) == result
    assert set(links(centre, result)) == set(FILES)


def test_a_run_that_failed_without_files(centre: Centre, submission: Submission) -> None:
    reason = Reason(code="exit-code", fault=Fault.USER, message="it ended with 3")
    centre.records.record_events([an_event(centre.order(submission.run, 1), 1, state=State.FAILED, reason=reason)])
    result = stage_out(centre, submission)
    assert (result.state, result.reason, result.files, result.tail) == (State.FAILED, reason, (), ())
    assert result.explain() == "site-a: FAILED (exit-code): it ended with 3"


def test_a_run_that_never_said_a_word(centre: Centre, submission: Submission) -> None:
    centre.lose(submission, "no word from site-a")
    result = stage_out(centre, submission)
    assert (result.state, result.stages, result.files) == (State.LOST, (), ())
    assert result.explain() == "site-a: LOST (lost): no word from site-a"


def test_a_run_that_goes_on_is_not_closed(centre: Centre, submission: Submission) -> None:
    centre.records.record_events([an_event(centre.order(submission.run, 1), 1, state=State.RUNNING)])
    assert stage_out(centre, submission).explain() == "site-a: RUNNING"
    row = centre.records.execution(str(submission.execution))
    assert row is not None
    assert row.state == "OPEN"


def test_a_file_that_is_missing(centre: Centre, submission: Submission) -> None:
    leave(centre, submission)
    centre.store.delete([attempt_key(submission.execution, "main", "site-a", 1, "outputs/a.csv")])
    differs(centre, submission, "outputs/a.csv of site-a is missing in the store, or has another size than the manifest's 3")


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("outputs/a.csv", b"a,bc", "outputs/a.csv of site-a is missing in the store, or has another size"),
        ("outputs/a.csv", b"a;b", "outputs/a.csv of site-a has another SHA-256 in the store than in the manifest"),
        ("outputs/extra", b"x", "the store holds outputs/extra of site-a, which the manifest does not list"),
        ("manifest.json", b"{}", "the manifest of site-a, attempt 1, is not the one that the node told of"),
    ],
)
def test_what_stands_otherwise_in_the_store(centre: Centre, submission: Submission, path: str, data: bytes, words: str) -> None:
    leave(centre, submission)
    put(centre, submission, path, data)
    differs(centre, submission, words)


def test_a_file_that_is_listed_twice(centre: Centre, submission: Submission) -> None:
    file = described("outputs/a.csv", FILES["outputs/a.csv"])
    leave(centre, submission, manifest(centre, submission, files=(file, file)))
    differs(centre, submission, "outputs/a.csv")


@pytest.mark.parametrize("changes", [{"attempt": 2}, {"run": an_id(9)}], ids=str)
def test_the_manifest_of_another_attempt(centre: Centre, submission: Submission, changes: dict[str, Any]) -> None:
    leave(centre, submission, manifest(centre, submission, **changes))
    differs(centre, submission, "the manifest of site-a is of another attempt")


def test_another_message_in_its_place(centre: Centre, submission: Submission) -> None:
    leave(centre, submission, an_event(centre.order(submission.run, 1), 1))
    differs(centre, submission, "the manifest of site-a is of another attempt")


def test_a_manifest_that_another_signed(centre: Centre, submission: Submission) -> None:
    own, other = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
    centre.records.enrol_node("site-a", public_key=Signer("site-a", own).public_key())
    leave(centre, submission, signer=Signer("site-a", other))
    differs(centre, submission, "the manifest of site-a: the signature by 'site-a' does not fit the message")


def test_a_manifest_that_is_not_there(centre: Centre, submission: Submission) -> None:
    leave(centre, submission, told=SHA)
    centre.store.delete([attempt_key(submission.execution, "main", "site-a", 1, "manifest.json")])
    with pytest.raises(ObjectMissing):
        stage_out(centre, submission)


def output(centre: Centre, submission: Submission, data: bytes = b"0123456789") -> OutputFile:
    put(centre, submission, "outputs/a.bin", data)
    key = attempt_key(submission.execution, "main", "site-a", 1, "outputs/a.bin")
    return OutputFile(path="outputs/a.bin", key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("partial", [None, b"", b"0123", b"0123456789"])
def test_a_download_goes_on_where_it_was(centre: Centre, submission: Submission, tmp_path: Path, partial: bytes | None) -> None:
    file = output(centre, submission)
    if partial is not None:
        (tmp_path / "outputs").mkdir()
        (tmp_path / "outputs/a.bin.partial").write_bytes(partial)
    for _ in range(2):
        assert download(centre, file, tmp_path).read_bytes() == b"0123456789"
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["a.bin"]


def test_an_empty_file_is_downloaded(centre: Centre, submission: Submission, tmp_path: Path) -> None:
    assert download(centre, output(centre, submission, b""), tmp_path).read_bytes() == b""


def test_a_download_that_went_wrong_leaves_nothing(centre: Centre, submission: Submission, tmp_path: Path) -> None:
    file = output(centre, submission)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/a.bin.partial").write_bytes(b"xxxx")
    with pytest.raises(StoreUnavailable) as caught:
        download(centre, file, tmp_path)
    assert (caught.value.code, caught.value.remedy) == ("download-corrupted", "try again")
    assert list((tmp_path / "outputs").iterdir()) == []
    (tmp_path / "outputs/a.bin.partial").write_bytes(b"too much of it, by far")
    assert download(centre, file, tmp_path).read_bytes() == b"0123456789"


def test_no_download_leaves_its_folder(centre: Centre, submission: Submission, tmp_path: Path) -> None:
    file = output(centre, submission).model_copy(update={"path": "../x"})
    with pytest.raises((FdnError, ValueError)):
        download(centre, file, tmp_path / "here")
    assert list(tmp_path.glob("x*")) == []


def test_a_large_file_is_hashed_when_it_is_downloaded(
    centre: Centre, submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "HASHED_AT_ONCE", 2)
    leave(centre, submission)
    put(centre, submission, "outputs/a.csv", b"a;b")
    file = stage_out(centre, submission).outputs[0]
    with pytest.raises(StoreUnavailable, match=r"outputs/a.csv: what came is not what the manifest lists \(try again\)"):
        download(centre, file, tmp_path)


def test_stages_take_their_times_from_the_events(centre: Centre, submission: Submission) -> None:
    order = centre.order(submission.run, 1)
    said = [an_event(order, n, state=state) for n, state in ((1, State.ACCEPTED), (3, State.RUNNING), (10, State.SUCCEEDED))]
    assert [(stage.state, stage.seconds) for stage in stages([said[0], an_event(order, 2, lines=("x",)), *said[1:]])] == [
        (State.ACCEPTED, 2.0), (State.RUNNING, 7.0), (State.SUCCEEDED, 0.0)]  # fmt: skip
    assert next(iter(stages(said))).since == said[0].at
    assert said[1].at - said[0].at == timedelta(seconds=2)
    assert list(stages([])) == []
