"""The secure sum of a session: updates stay in their nodes' sandboxes, and each step of the protocol (secure_sum.py) is one execution over the clients
that are still there. The centre passes on what they say to each other, adds up what is masked, and takes the masks off the sum.

A client that fails, or whose node goes away, is left out from there on; the protocol itself refuses to go on below the threshold. What a step is told is
written into the store before it is asked, and read again by a process that takes the session up: a client answers once, so that another question would
be its end.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import StringConstraints, TypeAdapter, ValidationError

from fdn_worker.protocol import InputFile
from federation.catalogue.tool import TaskTemplate, Tool
from federation.centre import Centre, described
from federation.learning.aggregator import Linear
from federation.learning.at_node import AGGREGATOR, MODEL, SECURE, answered, given
from federation.learning.combining import LOOK, Round, asked_for, connected
from federation.learning.folding import REDUCER, Arrived, CentreFolding
from federation.learning.left import left
from federation.learning.models import ModelFile, ModelInfo
from federation.learning.phases import OUTPUTS, Phase, Step, open_step, phase_execution, step_key
from federation.learning.program import PROGRAM, stored_program
from federation.learning.rounds import StreamingRound
from federation.learning.secure_partial import agreed_totals, from_words
from federation.learning.secure_sum import Keys, Revealed, SecureSumFailed, unmask
from federation.request import build
from federation.results import OutputFile, download
from storage.keys import input_key

log = logging.getLogger(__name__)

#: The tool that a site's policy is asked about; its tasks are the steps.
TOOL = "secure-sum"
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})+$")]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-f]{1,131}$")]
#: What the steps leave that leave JSON.
ANSWERS: dict[Step, TypeAdapter[Any]] = {
    "keys": TypeAdapter(tuple[Key, Key]), "shares": TypeAdapter(dict[str, Hex]),
    "reveal": TypeAdapter(dict[Literal["seeds", "masks"], dict[str, Number]]),
}  # fmt: skip


class SecureFolding(CentreFolding):
    """`take` hears who has trained; the sum comes when all have."""

    def __init__(self, centre: Centre, aggregator: Linear, base: ModelFile, state: ModelFile | None, folder: Path, round: Round) -> None:
        super().__init__(centre, aggregator, base, state, folder)
        assert round.asked.secure_sum is not None
        self._linear, self._round, self._asked = aggregator, round, round.asked.secure_sum
        self._mark = f"{round.session}/{round.number}".encode()
        self._totals = agreed_totals(aggregator, self._asked.metrics)
        self._count = len(aggregator.sums) * sum(tensor.count for tensor in base.tensors.values()) + len(self._totals)
        self._trained: list[str] = []
        self._lost: dict[str, str] = {}

    @property
    def lost(self) -> Mapping[str, str]:
        return self._lost

    async def take(self, arrived: Arrived) -> ModelInfo | None:
        self._trained.append(arrived.client)
        return None

    async def settle(self) -> None:
        _, published = await self._step("keys", dict.fromkeys(self._trained))
        told, sealed = await self._step("shares", dict.fromkeys(published, published))
        peers: dict[str, tuple[str, str]] = next(iter(told.values()))
        # Whoever has not sealed a share for everybody has not taken the step.
        whole = {sender: shares for sender, shares in sealed.items() if shares.keys() == peers.keys()}
        told, vectors = await self._step(
            "masked", {client: {sender: shares[client] for sender, shares in whole.items()} for client in whole}
        )
        shared = set(told)
        fitting = sorted(client for client, file in vectors.items() if file.size == 8 * self._count)
        told, answers = await self._step("reveal", dict.fromkeys(fitting, fitting))
        sent = sorted(told)
        self._lost |= {client: f"it left the secure sum{self._why(client)}" for client in self._trained if client not in sent}
        await asyncio.to_thread(
            self._unmask, {name: Keys(bytes.fromhex(masks), bytes.fromhex(seals)) for name, (masks, seals) in peers.items()}, shared,
            {client: vectors[client] for client in sent}, answers,
        )  # fmt: skip

    def _why(self, client: str) -> str:
        why = self._lost.get(client)
        return f": {why}" if why else ""

    def _unmask(
        self, peers: Mapping[str, Keys], shared: Iterable[str], vectors: Mapping[str, OutputFile], answers: Mapping[str, Any]
    ) -> None:
        total = np.zeros(self._count, np.uint64)
        for client, file in vectors.items():
            path = download(self._centre, file, self._folder / client)
            total += np.fromfile(path, "<u8")
            path.unlink()
        revealed = {
            client: Revealed(*({name: int(share, 16) for name, share in answer.get(kind, {}).items()} for kind in ("seeds", "masks")))
            for client, answer in answers.items()
        }
        words = unmask(total, peers, shared, vectors, revealed, self._asked.threshold, self._mark)
        out = self._folder / "sum.safetensors"
        from_words(words, self._linear, self._base, self._totals, self._asked.bits, vectors, out)
        round = self._rounds[REDUCER]
        assert isinstance(round, StreamingRound)
        round.add_partial(ModelFile(out, name="the secure sum"))
        out.unlink()

    # Steps

    async def _step(self, step: Step, tell: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask the clients, telling each something; what they were told, now or by an earlier process, and what those say that answer."""
        told = await asyncio.to_thread(self._once, step, tell)
        if len(told) < self._asked.threshold:
            raise SecureSumFailed(
                f"{len(told)} clients are left for the step {step!r} of the secure sum, and {self._asked.threshold} must",
                remedy="; ".join(f"{client}: {why}" for client, why in self._lost.items()) or "see what became of the others",
            )
        phase = await asyncio.to_thread(self._open, step, told)
        self._round.listening.begin(phase)
        answers: dict[str, Any] = {}
        until = asyncio.get_running_loop().time() + self._round.asked.round_timeout
        while phase.open:
            await self._round.alive()
            async with aclosing(self._round.listening.ends({phase}, LOOK)) as ends:
                async for ended in ends:
                    file, why = await asyncio.to_thread(left, self._centre, ended)
                    try:
                        if file is not None:
                            answers[ended.client] = await asyncio.to_thread(self._read, step, file)
                    except ValidationError as error:
                        why = f"its {answered(step)}: {error.errors()[0]['msg']}"
                    if why:
                        self._leaves(step, ended.client, why)
            here = await asyncio.to_thread(connected, self._centre)
            if phase.open and (asyncio.get_running_loop().time() > until or not phase.open & here):
                for client in sorted(phase.open):
                    self._leaves(step, client, f"no answer in {step!r}")
                await self._round.listening.drop(phase, "the secure sum goes on without it")
                break
        return told, answers

    def _leaves(self, step: Step, client: str, why: str) -> None:
        log.warning(
            "round %d: %s leaves the secure sum (%s): %s", self._round.number, client, step, why, extra={"action": "secure-sum-left"}
        )
        self._lost[client] = why

    def _read(self, step: Step, file: OutputFile) -> Any:
        if step not in ANSWERS:
            return file
        return ANSWERS[step].validate_json(b"".join(self._centre.store.get(file.key)))

    def _once(self, step: Step, tell: Mapping[str, Any]) -> dict[str, Any]:
        """What the clients of a step are told, if it was not written down before; as it stands."""
        key = input_key(phase_execution(self._round.asked.user, self._round.session, self._round.number, step), step, "told.json")
        if self._centre.store.stat(key) is None:
            content = json.dumps(tell).encode()
            self._centre.store.put(key, io.BytesIO(content), len(content))
        found: dict[str, Any] = json.loads(b"".join(self._centre.store.get(key)))
        return found

    def _open(self, step: Step, told: Mapping[str, Any]) -> Phase:
        of = self._round
        common = {PROGRAM: stored_program(self._centre.store)}
        if step in ("keys", "masked"):
            common[SECURE] = self._stored(step, SECURE, {
                "threshold": self._asked.threshold, "round": self._mark.hex(), "metrics": list(self._asked.metrics), "bits": self._asked.bits,
            })  # fmt: skip
        if step == "masked":
            common |= {MODEL: of.model, AGGREGATOR: self._stored(step, AGGREGATOR, asked_for(self._linear))}

        def inputs(client: str) -> Mapping[str, InputFile]:
            name = given(step)
            own = self._stored(step, f"{client}/{name}", told[client])
            return {**common, name: own.model_copy(update={"name": name})}

        return open_step(
            self._centre, of.asked, self._tool(step), of.number, step, step_key(of.session, of.number, step), sorted(told), inputs,
            flow_run=of.flow_run,
        )  # fmt: skip

    def _stored(self, step: Step, name: str, content: Any) -> InputFile:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        file = described(step, phase_execution(self._round.asked.user, self._round.session, self._round.number, step), name, path)
        with path.open("rb") as source:
            self._centre.store.put(file.where, source, file.size)
        path.unlink()
        return file

    def _tool(self, step: Step) -> Tool:
        of, command = self._round, ["python3", f"$INPUT_PATH/{PROGRAM}", step, "$INPUT_PATH", "$SANDBOX_PATH"]
        # The sandbox of training, which has left the update there.
        kept = f"{phase_execution(of.asked.user, of.session, of.number, 'train')}.train"
        template = build(
            TaskTemplate, id=step, image=self._asked.image or of.asked.reference, command={"base": command}, resources=of.asked.resources,
            timeout=of.asked.timeout, outputs=(OUTPUTS[step],), persistent=kept,
        )  # fmt: skip
        return Tool(name=TOOL, title="secure sum", tasks=(template,))
