"""A catalogue's folder: all that is wrong with all of its files is told at once, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.catalogue.document import CatalogueError
from federation.catalogue.folder import Catalogue, load, load_tool

TOOL = """\
name: count
tasks:
  - id: main
    command:
      base: [count]
"""
#: A public key's form: 32 bytes.
KEY = "A" * 43 + "="


def wrong(path: Path) -> list[str]:
    """The problems, without the folder's own path."""
    with pytest.raises(CatalogueError) as caught:
        load(path) if path.is_dir() else load_tool(path)
    return [problem.replace(f"{path if path.is_dir() else path.parent}/", "") for problem in caught.value.problems]


def write(folder: Path, **files: str) -> Path:
    """tools__count="..." is tools/count.yaml."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def of_tool(folder: Path, text: str) -> list[str]:
    (folder / "t.yaml").write_text(text)
    return wrong(folder / "t.yaml")


def test_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path, tools__count=TOOL, nodes__site_a=f"id: site-a\npublic_key: {KEY}\nlocation: {{lat: 52.5, lon: 13.4}}\n")
    (folder / "tools/notes.txt").write_text("not of the catalogue")
    (folder / "tools/.count.yaml").write_text("an editor's own")
    catalogue = load(folder)
    assert list(catalogue.tools) == ["count"]
    assert catalogue.nodes["site-a"].public_key == KEY
    assert load(write(tmp_path / "other", tools__count=TOOL)) == Catalogue(catalogue.tools, {})


def test_no_catalogue_at_all(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no catalogue, since it has neither tools/ nor nodes/"):
        load(tmp_path)


def test_every_error_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path, tools__a=TOOL.replace("tasks", "task"), tools__b=TOOL.replace("command", "comand"), tools__c="name: [\n",
        nodes__x="id: Site_X\npublic_key: abc\n", nodes__y="id: y\ndisplayname: Y\n",
    )  # fmt: skip
    (folder / "tools/d.json").write_text('{"name": "d",\n oops}')
    assert wrong(folder) == [
        "tools/a.yaml:1: tasks: is required",
        "tools/a.yaml:2: task: unknown key, did you mean tasks?",
        "tools/b.yaml:3: tasks.0.command: is required",
        "tools/b.yaml:4: tasks.0.comand: unknown key, did you mean command?",
        "tools/c.yaml:2: expected the node content, but found '<stream end>' (is it half edited?)",
        "tools/d.json:2: Expecting property name enclosed in double quotes",
        "nodes/x.yaml:1: id: 'Site_X' is not allowed (use 1 to 63 of a-z, 0-9 and -, with no - at either end)",
        "nodes/x.yaml:2: public_key: 'abc' is no public key; copy the line that `fdn-worker init` printed",
        "nodes/y.yaml:2: displayname: unknown key, did you mean display_name?",
    ]


def test_two_tools_with_one_id(tmp_path: Path) -> None:
    folder = write(tmp_path, tools__a=TOOL, tools__b=TOOL, nodes__a="id: n", nodes__b="id: n")
    first = f"tool 'count' stands in {folder}/tools/a.yaml, too (give one of them another id, or remove it)"
    with pytest.raises(CatalogueError) as caught:
        load(folder)
    assert caught.value.problems[0] == f"{folder}/tools/b.yaml: {first}"
    assert "node 'n' stands in" in caught.value.problems[1]
    assert str(caught.value).startswith("2 problems:\n  ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.yaml:1: holds no keys"),
        ("- a\n", "t.yaml:1: must be keys with values"),
        ("name: t\ntasks: []\n", "t.yaml:2: tasks: is empty, and needs at least one"),
        ("name: t\ntasks:\n  - command: {base: []}\n", "t.yaml:3: tasks.0.command.base: is empty, and needs at least one"),
        ("name: t\ntasks:\n  - id: x\n", "t.yaml:3: tasks.0.command: is required"),
        ("name: t\nname: u\n", "t.yaml:2: name: stands twice (is it half edited?)"),
        ("name: t\n<<<<<<< HEAD\ntasks: []\n", "t.yaml:3: could not find expected ':' (is it half edited?)"),
        ("name: t\ntasks:\n- id: a\n\tcommand: x\n", "t.yaml:4: found character '\\t' that cannot start any token (is it half edited?)"),
        ("a: 1\n---\nb: 2\n", "t.yaml:2: but found another document (is it half edited?)"),
        ("name: t\ntasks: &x\n  - *x\n", "t.yaml:2: tasks.0: an alias refers to what it stands in: a circular reference"),
        ("name: t\nversion: 1.10\n" + TOOL[12:], "t.yaml:2: version: 1.1 is a number (write it in quotes)"),
        (TOOL + "    timeout: -1\n", "t.yaml:6: tasks.0.timeout: Input should be greater than 0"),
        (TOOL + "    resources: {memmory: 2GB}\n", "t.yaml:6: tasks.0.resources.memmory: unknown key, did you mean memory?"),
        (TOOL + "    source: ssh://x.org/y\n",
         "t.yaml:6: tasks.0.source: 'ssh://x.org/y' must be an https:// address, and may be followed by ` --branch NAME`"),
        (TOOL + "contents: {}\n", "t.yaml:6: contents: unknown key (the files themselves go beside this one, see `files`)"),
        (TOOL + "  - id: main\n    command: {base: x}\n", "t.yaml:1: two tasks have the id main"),
        (TOOL + "    ends_with_clients: true\n",
         "t.yaml:6: tasks.0.ends_with_clients: only a server's task ends with its clients (single_node: true, beside tasks of clients)"),
        (TOOL + "visibility: project\n", "t.yaml:1: projects: a tool with visibility `project` names its projects"),
        (TOOL + "    files: [../x.py]\n", "t.yaml:6: tasks.0.files: path '../x.py' must be relative, without '..', '.' or empty parts"),
    ],
)  # fmt: skip
def test_a_wrong_tool_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    assert said in of_tool(tmp_path, text)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("[{id: a, type: int, default: x}]", "args.0.default: default: 'x' is not a whole number (argument a is of type int)"),
        ("[{id: a, choices: [x], default: y}]", "args.0.default: default: 'y' is not among the choices of a (choose from: x)"),
        ("[{id: a, type: int, choices: [x]}]", "args.0.choices: choices: 'x' is not a whole number (argument a is of type int)"),
        ("[{id: a}, {id: a}]", "args: two arguments are named a"),
        ("[{id: a, typ: int}]", "args.0.typ: unknown key, did you mean type?"),
        ('[{id: a, default: "%%args.b%%"}]', "args.0.default: unknown placeholder %%args.b%%, there are: args.a"),
        (
            '[{id: a, default: "%%args.b%%"}, {id: b, default: "%%args.a%%"}]',
            "args: defaults of arguments refer to each other in a circle: a -> b -> a",
        ),
        ('[{id: a, prefix: "%%nod_name%%"}]', "args.0.prefix: unknown placeholder %%nod_name%%, there are: node_name"),
    ],
)
def test_wrong_arguments(args: str, said: str, tmp_path: Path) -> None:
    (problem,) = of_tool(tmp_path, TOOL + f"      args: {args}\n")
    assert problem.startswith(f"t.yaml:6: tasks.0.command.{said}")


@pytest.mark.parametrize(
    "base",
    [
        "[sh, -c, 'echo %%args.a%%']",
        "[python3, -c, 'print(\"%%args.a%%\")']",
        "[/bin/bash, -lc, '%%args.a%%']",
        "[env, bash, '%%args.a%%']",
    ],
)
def test_a_value_never_becomes_a_programs_text(base: str, tmp_path: Path) -> None:
    (problem,) = of_tool(tmp_path, TOOL.replace("[count]", base) + "      args: [{id: a}]\n")
    assert "t.yaml:5: tasks.0.command.base: %%" in problem
    assert "would be read as program text" in problem


def test_a_shell_may_have_values_as_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TOOL.replace("[count]", "[sh, -c, 'echo \"$1\" at %%node_name%%', sh]") + "      args: [{id: a}]\n")
    assert load_tool(tmp_path / "t.yaml").tasks[0].command.base[-1] == "sh"


def test_files_stand_beside_the_tool(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/count.py").write_text("pass")
    assert of_tool(tmp_path, TOOL + "    files: [scripts/cuont.py]\n") == [
        "t.yaml:6: tasks.0.files.cuont.py: there is no file scripts/cuont.py beside this one (there are: scripts/count.py)"
    ]
    (tmp_path / "t.yaml").write_text(TOOL + "    files: {main.py: scripts/count.py}\n")
    assert load_tool(tmp_path / "t.yaml").contents == {"scripts/count.py": b"pass"}
    (tmp_path / "out.py").symlink_to("/etc/hostname")
    assert "out.py is a link that leads out of the folder" in of_tool(tmp_path, TOOL + "    files: [out.py]\n")[0]
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1024**2 + 1)
    assert "larger than 1 MiB" in of_tool(tmp_path, TOOL + "    files: [large]\n")[0]


def test_yaml_that_grows_when_it_is_read_costs_nothing(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    assert "t.yaml:1: a0: unknown key" in of_tool(tmp_path, "\n".join(lines))


def test_settings_may_be_shared_by_an_anchor(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "name: t\ntasks:\n  - &base\n    id: a\n    command: {base: run}\n    timeout: 5\n  - {<<: *base, id: b}\n"
    )
    assert [(task.id, task.timeout) for task in load_tool(tmp_path / "t.yaml").tasks] == [("a", 5.0), ("b", 5.0)]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00"])
def test_a_file_that_is_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(content)
    (problem,) = wrong(tmp_path / "t.yaml")
    assert problem.startswith("t.yaml:1: ")
    assert wrong(tmp_path / "gone.yaml") == ["gone.yaml:1: No such file or directory"]
