"""What Prefect shows of a session: a table of its rounds, the boxes of the latest one, and the curve of its loss.

Three artifacts a session, each made once and changed after each round, so that three calls a round are made whatever the number of clients. What
Prefect does not take is logged, and the session goes on: Prefect is the view.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import Artifact, ImageArtifact, MarkdownArtifact, TableArtifact
from prefect.exceptions import PrefectException

from federation.learning import series
from federation.learning.dashboard import PHASES, Seen, read, round_table
from federation.learning.figures import MOST_ROWS
from federation.simulation.plots import lines
from flows.learning_page import written
from flows.report import cell
from flows.seeing import put
from flows.timeline import data_url
from storage.learning import Learning


class LearningArtifacts:
    """Those of one session, in the flow run that runs it."""

    def __init__(self, learning: Learning, session: str) -> None:
        self._learning, self._session = learning, session
        self._known: dict[str, UUID] = {}

    async def tell(self) -> None:
        """Show how it stands."""
        made = await asyncio.to_thread(self._made)
        try:
            async with get_client() as client:
                for artifact in made:
                    key = str(artifact.key)
                    self._known[key] = await put(client, artifact, self._known.get(key))
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("what Prefect shows of this session stays behind: %s", error)

    def _made(self) -> list[Artifact]:
        return artifacts(read(self._learning, self._learning.find_session(self._session), steps=False))


def artifacts(seen: Seen) -> list[Artifact]:
    """All of them; the curve once there is one."""
    session, (header, rows) = seen.session, round_table(seen)
    table: list[dict[str, object]] = [dict(zip(header, row, strict=True)) for row in rows[-MOST_ROWS:]]
    found: list[Artifact] = [
        TableArtifact(key=f"rounds-{session.id}", description=f"Rounds of {session.name}", table=table),
        MarkdownArtifact(key=f"learning-{session.id}", description=f"{session.name}: {session.state}", markdown=markdown(seen)),
    ]
    scores = series.scores(seen.updates)
    for name in series.names(scores)[:1]:
        means = {phase: series.over_rounds(scores, phase, name).mean for phase in PHASES}
        drawn = {f"{phase}, mean": ([at for at, _ in mean], [value for _, value in mean]) for phase, mean in means.items() if mean}
        # Prefect shows it on white and on black.
        svg = lines(f"{session.name}: {name}", drawn, across="round", up=name).replace(">", ' style="background:#fff;color:#3c4043">', 1)
        found.append(ImageArtifact(key=f"curve-{session.id}", description=f"{name} after each round", image_url=data_url(svg)))
    return found


def markdown(seen: Seen) -> str:
    """How the session stands, and how the clients of the latest round lie, for each metric."""
    session, scores = seen.session, series.scores(seen.updates)
    text = [f"# {cell(session.name)}: {session.state}, round {session.round}", "", cell(session.reason), ""]
    boxes = [(name, phase, series.boxes(scores, phase, name)[-1:]) for name in series.names(scores) for phase in PHASES]
    if scores:
        text += ["| metric | phase | round | clients | low | quartile 1 | median | quartile 3 | high | mean | far outside |"]
        text += ["|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"]
    for name, phase, latest in boxes:
        for box in latest:
            values = (box.low, box.q1, box.median, box.q3, box.high, box.mean)
            outside = ", ".join(client for client, _ in box.outliers[:10])
            text.append(f"| {cell(name)} | {phase} | {box.round} | {box.clients} | {' | '.join(map(written, values))} | {cell(outside)} |")
    return "\n".join([*text, "", f"With curves, boxes of all rounds and timeline: `fem sessions page {session.id}`."])
