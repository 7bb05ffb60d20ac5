"""Messages of every kind, drawn by hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from fdn_worker.errors import Fault
from fdn_worker.protocol import (
    Abort,
    Answer,
    Chunk,
    Complete,
    Completed,
    ControlRequest,
    Endpoint,
    Fetch,
    Grant,
    Health,
    Heartbeat,
    ImageHere,
    InputFile,
    Inquiry,
    Labels,
    Manifest,
    ManifestFile,
    Message,
    Mount,
    Move,
    OrderPlan,
    Port,
    Present,
    Reason,
    Refusal,
    Release,
    Report,
    Resources,
    Server,
    Source,
    State,
    Taken,
    TaskEvent,
    TaskOrder,
    TransferRequest,
    Usage,
)  # fmt: skip
from fdn_worker.protocol.chain import Head
from fdn_worker.protocol.names import run_id
from fdn_worker.protocol.upload import AbortedFile, FinishedFile, GrantedFile, GrantedUrl, PartETag, TransferFile

#: Anything that can stand in JSON, but NUL, which no process takes.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ids = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
attempts = st.integers(1, 10**6)
sizes = st.integers(0, 2**63)
moments = st.datetimes(
    datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
paths = st.lists(st.text("ab.é -", min_size=1, max_size=5).filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map(
    "/".join
)
seconds = st.floats(0.001, 1e9)
states = st.sampled_from(list(State))
numbers = st.integers(1, 10_000)


def few(of: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(of, min_size=least, max_size=3).map(tuple)


reasons = st.builds(Reason, code=text, fault=st.sampled_from(list(Fault)), message=text)
usages = st.builds(Usage, cpu_seconds=seconds, peak_memory=sizes, estimated=st.booleans())
releases = st.builds(
    Release, verdict=st.sampled_from(["released", "partly", "denied"]), rules=few(text), person=text, at=moments, why=text, withheld=sizes
)  # fmt: skip
reports = st.builds(
    Report, launcher=st.none() | text, image_digest=st.none() | text, exit_code=st.none() | st.integers(0, 255), usage=usages,
    bytes_in=sizes, bytes_out=sizes, lines_dropped=sizes, manifest_sha256=st.none() | digests, release=st.none() | releases,
)  # fmt: skip
of_attempt = {"request": st.uuids(), "node": ids, "run": st.uuids(), "attempt": attempts}
of_run = {"execution": st.uuids(), "task": ids, "node": ids, "run": st.uuids(), "attempt": attempts}


inputs = st.builds(InputFile, name=paths, size=sizes, sha256=digests, where=text)


ports = st.integers(1, 65535)
absolute = paths.map("/{}".format)
mounts = st.one_of(
    st.builds(Mount, kind=st.just(kind), source=source, target=absolute)
    for kind, source in (("dataset", paths), ("sandbox", st.just("") | paths), ("host", absolute))
)
images = st.builds(ImageHere, name=text, digest=text, size=sizes)
plans = st.builds(OrderPlan, task=ids, accepts=st.booleans(), reasons=few(reasons), launcher=text, image_here=st.none() | st.booleans(),
                  image_digest=st.none() | text)  # fmt: skip
healths = st.builds(Health, worker_version=text, clock=moments, uptime=seconds, gpus=sizes, paths=st.dictionaries(text, st.booleans(), max_size=3),
                    launchers=st.dictionaries(text, text, max_size=2), images=few(images), certificate_expires=st.none() | moments)  # fmt: skip


def _distinct(found: tuple[Port, ...]) -> bool:
    return len({port.container for port in found}) == len(found) == len({port.host or -port.container for port in found})


@st.composite
def orders(draw: st.DrawFn) -> TaskOrder:
    execution, task, node = draw(st.uuids()), draw(ids), draw(ids)
    fields = st.fixed_dictionaries(
        {"attempt": attempts, "issued": moments, "deadline": moments, "argv": few(text, 1)},
        optional={
            "launcher": text, "image": st.just("registry/x:1"), "image_digest": digests.map("sha256:{}".format), "datasets": few(ids),
            "environment": st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), text, max_size=3),
            "inputs": few(inputs), "outputs": few(paths),
            "resources": st.builds(Resources, cpus=st.floats(0.01, 4096), memory=st.integers(6 * 1024**2, 2**50), gpus=st.integers(0, 8)),
            "ports": few(st.builds(Port, container=ports, host=st.none() | ports)).filter(_distinct), "listen_within": seconds,
            "servers": few(st.builds(Server, node=ids, host=st.just("x.org"), ports=st.dictionaries(ports, ports, max_size=3))),
            "mounts": few(mounts), "checks": few(paths), "sandbox": ids, "moves": few(st.builds(Move, source=paths, shelf=ids, to=paths)),
            "release_within": st.none() | st.floats(0, 1e8), "image_signature": st.none() | st.just("A" * 86 + "=="),
            "network": st.booleans(), "timeout": seconds, "labels": st.builds(Labels, user=text, project=text, tool=text),
            "source": st.builds(Source, repository=st.just("https://x.org/y"), commit=st.just("0f" * 20), pack=st.none() | inputs),
        },
    )  # fmt: skip
    return TaskOrder(execution=execution, task=task, node=node, run=run_id(execution, task, node), **draw(fields))


messages: st.SearchStrategy[Message] = st.one_of(
    orders(),
    st.builds(TaskEvent, **of_run, number=attempts, at=moments, state=st.none() | states, lines=few(text), reason=st.none() | reasons,
              report=st.none() | reports, listening=few(st.builds(Endpoint, port=ports, host=text, published=ports))),
    st.builds(ControlRequest, **of_run, request=st.uuids(), action=st.sampled_from(["cancel", "report"]), issued=moments, deadline=moments, why=text),
    st.builds(Heartbeat, node=ids, session=st.uuids(), number=attempts, at=moments, interval=seconds, worker_version=text, launchers=few(text),
              datasets=few(ids), slots=attempts, slots_free=sizes, problems=few(text), gpus=sizes, images=few(text), address=text, trusts=few(text),
              audit=st.none() | st.builds(Head, number=sizes, hash=digests),
              present=few(st.builds(Present, run=st.uuids(), attempt=attempts, state=states))),
    st.builds(Manifest, **of_run, at=moments, exit_code=st.none() | st.integers(0, 255), usage=usages,
              files=few(st.builds(ManifestFile, path=paths, size=sizes, sha256=digests)), release=st.none() | releases),
    st.builds(TransferRequest, **of_attempt, direction=st.sampled_from(["get", "put"]), by=st.sampled_from(["store", "broker"]),
              files=few(st.builds(TransferFile, path=text, size=sizes, upload_id=st.none() | text, parts=few(numbers)), 1)),
    st.builds(Grant, **of_attempt, expires=moments,
              files=few(st.builds(GrantedFile, path=text, urls=few(st.builds(GrantedUrl, number=numbers, url=text))))),
    st.builds(Complete, **of_attempt, files=few(st.builds(FinishedFile, path=paths, upload_id=text, size=sizes,
              parts=few(st.builds(PartETag, number=numbers, etag=text), 1)), 1)),
    st.builds(Completed, **of_attempt, paths=few(paths)),
    st.builds(Chunk, **of_attempt, path=text, upload_id=st.none() | text, number=numbers, at=sizes, size=st.integers(0, 5 * 1024**3),
              sha256=digests, offset=sizes),
    st.builds(Taken, **of_attempt, etag=text),
    st.builds(Fetch, **of_attempt, path=text, offset=sizes, length=st.integers(1, 4 * 1024**2)),
    st.builds(Abort, **of_attempt, files=few(st.builds(AbortedFile, path=paths, upload_id=text), 1)),
    st.builds(Inquiry, request=st.uuids(), node=ids, issued=moments, deadline=moments, about=st.just("plan"), orders=few(orders(), 1), user=text),
    st.builds(Inquiry, request=st.uuids(), node=ids, issued=moments, deadline=moments, about=st.just("images"), image=text.filter(bool),
              action=st.sampled_from(["list", "pull", "remove"])),
    st.builds(Answer, request=st.uuids(), node=ids, at=moments, about=st.sampled_from(["plan", "health", "images", "intake"]),
              refused=st.none() | reasons, plans=few(plans), slots=sizes, slots_free=sizes, accepting=st.booleans(), address=text,
              health=st.none() | healths, images=few(images)),
    st.builds(Refusal, **of_attempt, code=text, fault=st.sampled_from(list(Fault)), message=text, retryable=st.booleans()),
)  # fmt: skip
