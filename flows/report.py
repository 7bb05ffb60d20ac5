"""The Markdown artifacts: of a federated task, and of an execution over many nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fdn_worker.protocol import State
from federation.results import TaskResult

if TYPE_CHECKING:
    from federation.execution import ExecutionResult

#: Runs that the report of an execution names, if they did not succeed.
NAMED = 100


def human(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def cell(text: str) -> str:
    """A site's text, such as a file's name, that shows in Markdown as it is and does nothing else."""
    return "".join(character if character.isalnum() or character in " ./-_" else f"&#{ord(character)};" for character in text)


def markdown(result: TaskResult, links: Mapping[str, str]) -> str:
    """State, times of each stage, resources, outputs with their places, and the tail of the log."""
    report, usage = result.report, result.report.usage
    lines = [
        f"# {result.state} at {result.node}",
        "",
        f"Execution `{result.execution}`, run `{result.run}`, attempt {result.attempt}.",
        "",
    ]
    if result.reason:
        lines += [f"**{result.reason.code}** ({result.reason.fault}): {cell(result.reason.message)}", ""]
    lines += ["| stage | since (UTC) | seconds |", "|---|---|---:|"]
    lines += [f"| {stage.state} | {stage.since:%Y-%m-%d %H:%M:%S} | {stage.seconds:.2f} |" for stage in result.stages]
    mark = " (estimated)" if usage.estimated else ""
    lines += [
        "",
        "| exit code | CPU seconds | peak memory | in | out | launcher | image |",
        "|---:|---:|---:|---:|---:|---|---|",
        f"| {'' if report.exit_code is None else report.exit_code} | {usage.cpu_seconds:.2f}{mark} | {human(usage.peak_memory)}{mark} "
        f"| {human(report.bytes_in)} | {human(report.bytes_out)} | {report.launcher or ''} | {f'`{report.image_digest}`' if report.image_digest else ''} |",
        "",
    ]
    if report.release and (report.release.person or report.release.withheld):
        by = ", ".join([*report.release.rules, *filter(None, [report.release.person])])
        kept = f"; files that stay at the site: {report.release.withheld}" if report.release.withheld else ""
        lines += [f"Release: {report.release.verdict} by {cell(by) or 'nobody'}{kept}.", ""]
    if result.files:
        lines += ["| output | size | SHA-256 |", "|---|---:|---|"]
        lines += [f"| [{cell(file.path)}]({links[file.path]}) | {human(file.size)} | `{file.sha256[:16]}…` |" for file in result.files]
        lines += ["", f"The links are good for a day; after that: `fem download {result.execution}`.", ""]
    if result.tail:
        lines += ["The log's last lines:", "", "```", *(line.replace("```", "'''") for line in result.tail), "```", ""]
    return "\n".join(lines)


def execution_markdown(outcome: ExecutionResult, links: Mapping[str, str]) -> str:
    """What came of it, what did not succeed and why, and the outputs with their places: `links` from an output's key to a URL."""
    lines = [
        f"# {outcome.tool}: {outcome.state}, {outcome.message}",
        "",
        f"Execution `{outcome.execution}`, {len(outcome.runs):,} runs.",
        "",
    ]
    bad = [run for run in outcome.runs if run.state is not State.SUCCEEDED]
    if bad:
        lines += ["The results are partial.", "", "| node | task | state | why |", "|---|---|---|---|"]
        lines += [f"| {run.node} | {run.task} | {run.state} | {cell(run.reason.message) if run.reason else ''} |" for run in bad[:NAMED]]
        lines += ["", *([f"And {len(bad) - NAMED:,} more.", ""] if len(bad) > NAMED else [])]
    outputs = [(run, file) for run in outcome.runs for file in run.outputs]
    if outputs:
        linked = [(run, file) for run, file in outputs if file.key in links]
        lines += ["| node | output | size | SHA-256 |", "|---|---|---:|---|"]
        lines += [
            f"| {run.node} | [{cell(file.path)}]({links[file.key]}) | {human(file.size)} | `{file.sha256[:16]}…` |" for run, file in linked
        ]
        more = f"And {len(outputs) - len(linked):,} more. " if len(linked) < len(outputs) else ""
        lines += ["", f"{more}The links are good for a day; all of it, at any time: `fem download {outcome.execution}`.", ""]
    return "\n".join(lines)
