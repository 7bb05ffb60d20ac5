"""A node with its transfers, and a relay of a few lines that grants what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from fdn_worker.asking import Asking
from fdn_worker.journal import Journal
from fdn_worker.protocol import (
    Abort,
    Complete,
    Completed,
    Grant,
    Message,
    Refusal,
    Signer,
    TaskOrder,
    TransferRequest,
    now,
)  # fmt: skip
from fdn_worker.protocol.upload import GrantedFile, GrantedUrl, TransferFile
from fdn_worker.settings import TransferSection
from fdn_worker.signed_urls import SignedUrls
from fdn_worker.transfer import Transfers, Upload
from tests.unit.helpers import FakeBroker, Sent, an_order

#: Bytes of a part in these tests; real settings admit no such small ones.
PART = 100


def never() -> bool:
    return False


@dataclass
class Site:
    """`asked` is what the node asked the relay; `ignore` counts requests that get no answer; `refuse` are answered so."""

    folder: Path
    url: Callable[[str], str]
    order: TaskOrder = field(default_factory=an_order)
    allow_file: bool = True
    part_size: int = PART
    keep_trying: float = 60.0
    asked: list[Message] = field(default_factory=list)
    ignore: int = 0
    refuse: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "journal.db", Signer())
        self.start()

    def start(self) -> None:
        """Transfers as after a start of the worker."""
        section = TransferSection.model_construct(
            part_size=ByteSize(self.part_size), parallel=2, keep_trying=self.keep_trying, allow_file=self.allow_file, store=""
        )
        self.broker = FakeBroker(then=self.answer)
        self.transfers = Transfers(section, Asking("site-a", self.broker, Signer()), SignedUrls(section), self.journal)

    def answer(self, sent: Sent) -> None:
        message = sent.message
        self.asked.append(message)
        if self.ignore:
            self.ignore -= 1
            return
        assert isinstance(message, TransferRequest | Complete | Abort)
        common = {"request": message.request, "node": "site-a", "run": message.run, "attempt": message.attempt}
        if self.refuse:
            self.transfers.answered(Refusal(**common | self.refuse.pop(0)))
        elif isinstance(message, TransferRequest):
            self.transfers.answered(Grant(**common, expires=now(), files=tuple(self.granted(file) for file in message.files)))
        elif isinstance(message, Complete):
            self.transfers.answered(Completed(**common, paths=tuple(file.path for file in message.files)))

    def granted(self, file: TransferFile) -> GrantedFile:
        if not file.part_size:
            return GrantedFile(path=file.path, urls=(GrantedUrl(number=1, url=self.url(file.path)),))
        upload_id = file.upload_id or f"u{len(self.asked)}"
        numbers = file.parts or range(1, -(-file.size // file.part_size) + 1)
        urls = tuple(GrantedUrl(number=number, url=self.url(f"{file.path}?{upload_id}.{number}")) for number in numbers)
        return GrantedFile(path=file.path, upload_id=upload_id, urls=urls)

    def upload(self, path: str, data: bytes) -> Upload:
        file = self.folder / path.replace("/", "-")
        file.write_bytes(data)
        return Upload(path, file, len(data))

    def put(self, *uploads: Upload, stopping: Callable[[], bool] = never) -> None:
        self.transfers.put_files(self.order, uploads, stopping)

    def requests(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.asked if isinstance(message, kind)]

    def close(self) -> None:
        self.transfers._pool.shutdown()
        self.transfers.close()
        self.journal.close()
