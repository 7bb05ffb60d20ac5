"""`fem tools`: the catalogue's tools. No federation is asked for files that are given by path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from federation.catalogue.tool import Argument, Tool

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
tools = typer.Typer(help="The tools that may be run by name.", no_args_is_help=True, add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tools, name="tools")


@tools.command("list")
def list_tools(json: Json = False) -> None:
    """The tools of the federation."""
    from rich.console import Console

    from federation.catalogue.tool import Tool
    from flows import connection
    from flows.listing import listing

    found = [Tool.model_validate_json(row.document) for row in connection.centre().records.catalogue.tools()]
    if json:
        typer.echo("[" + ",\n ".join(tool.model_dump_json(exclude={"contents"}) for tool in found) + "]")
        return
    rows = [
        (
            tool.name, tool.version, ", ".join(tool.projects) if tool.visibility == "project" else tool.visibility,
            ", ".join(task.id for task in tool.tasks), tool.title or _first_line(tool.description),
        )
        for tool in found
    ]  # fmt: skip
    table = listing(("tool", "version", "for", "tasks", "what"), rows, wrap=("for", "tasks", "what"))
    Console(markup=False, highlight=False).print(table if found else "no tools yet: `fem sync` brings those of a folder")


@tools.command()
def show(name: Annotated[str, typer.Argument(help="The tool's name, or its YAML file.")], json: Json = False) -> None:
    """A tool: its tasks, and what may be given to it."""
    from rich.console import Console
    from rich.table import Table

    tool = _found(name)
    if json:
        typer.echo(tool.model_dump_json(indent=2, exclude={"contents"}))
        return
    console = Console(markup=False, highlight=False)
    console.print(" ".join(filter(None, (tool.name, tool.version, f"by {tool.author}" if tool.author else "", f"({tool.visibility})"))))
    for text in filter(None, (tool.title, tool.description)):
        console.print(text.strip(), soft_wrap=True)
    for task in tool.tasks:
        role = "a server's, at one node" if task.single_node and tool.has_server else "at every node"
        image = task.image.reference if task.image else "no image"
        console.print(f"\ntask {task.id}: {role}; {image}; {' '.join(task.command.base)}", soft_wrap=True)
        if task.command.args:
            table = Table("argument", "type", "default", "what", box=None, pad_edge=False)
            for argument in task.command.args:
                table.add_row(argument.id, argument.type, _default(argument), _what(argument))
            console.print(table)


def _default(argument: Argument) -> str:
    from federation.catalogue.values import text

    return text(argument.default) if argument.default is not None else "required" if argument.required else ""


def _what(argument: Argument) -> str:
    from federation.catalogue.values import text

    choices = f"one of {', '.join(map(text, argument.choices))}" if argument.choices else ""
    return "; ".join(filter(None, (argument.description, choices)))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _found(name: str) -> Tool:
    from federation.catalogue.find import find_tool, is_path
    from federation.catalogue.folder import load_tool
    from flows import connection

    return load_tool(Path(name)) if is_path(name) else find_tool(connection.centre().records, name)


@tools.command()
def validate(path: Annotated[Path, typer.Argument(help="A catalogue's folder, or one tool's file.")]) -> None:
    """Check a catalogue. All that is wrong is told, with file and line."""
    from federation.catalogue.folder import load, load_tools

    if path.is_dir():
        catalogue = load(path)
        warnings, said = catalogue.warnings, f"{len(catalogue.tools)} tools, {len(catalogue.nodes)} nodes"
    else:
        found, listed = load_tools([path])
        warnings, said = tuple(listed), ", ".join(tool.name for tool in found)
    for warning in warnings:
        typer.echo(warning, err=True)
    typer.echo(f"{path}: {said}: all right")


@tools.command("import")
def import_tools(
    files: Annotated[list[Path], typer.Argument(help="Existing FEM documents (JSON): tools and the task templates that they name.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the YAML files.", file_okay=False)] = Path("deployments/catalogue/tools"),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write existing FEM documents as files of the catalogue. What has no place there is told."""
    from federation.catalogue.document import CatalogueError
    from federation.catalogue.folder import as_yaml, load_tools
    from federation.catalogue.schemas import path_from

    found, warnings = load_tools(files)
    there = [path for tool in found if (path := to / f"{tool.name}.yaml").exists()]
    if there and not force:
        raise CatalogueError([f"{path}: is there already (--force replaces it)" for path in there])
    to.mkdir(parents=True, exist_ok=True)
    for warning in warnings:
        typer.echo(warning, err=True)
    for tool in found:
        path = to / f"{tool.name}.yaml"
        path.write_text(as_yaml(tool, path_from(to, "tool.schema.json")), encoding="utf-8")
        typer.echo(f"wrote {path}")
