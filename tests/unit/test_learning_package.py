"""Client packages: what is handed to the nodes, and what is wrong with one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from federation.learning.package import Package, PackageRefused

CLIENT = """\
name: tiny
entry_points:
  train: [python3, client.py, train, --with, lib/more.py]
  validate: [python3, ./client.py, validate]
settings: {epochs: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "lib").mkdir(parents=True)
    (folder / "client.yaml").write_text(CLIENT)
    (folder / "client.py").write_text("print()\n")
    (folder / "lib/more.py").write_text("")
    return folder


def test_its_files_command_lines_and_settings(folder: Path) -> None:
    for nobody in ("__pycache__", ".git"):
        (folder / nobody).mkdir()
        (folder / nobody / "client.pyc").write_text("")
    package = Package.load(folder)
    assert (package.name, package.settings) == ("tiny", {"epochs": 2})
    assert package.files() == {f"package/{name}": folder / name for name in ("client.py", "client.yaml", "lib/more.py")}
    placed = "$INPUT_PATH/package"
    model, update = "$INPUT_PATH/model.safetensors", "$SANDBOX_PATH/update.safetensors"
    assert package.argv("train") == ("python3", f"{placed}/client.py", "train", "--with", f"{placed}/lib/more.py", model, update)
    assert package.argv("validate") == ("python3", f"{placed}/client.py", "validate", model, "$SANDBOX_PATH/metrics.json")


def test_the_checksum_is_of_names_and_contents(folder: Path, tmp_path: Path) -> None:
    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    listed = [f"{digest((folder / name).read_bytes())}  {name}\n" for name in ("client.py", "client.yaml", "lib/more.py")]
    first = Package.load(folder).checksum
    assert first == digest("".join(listed).encode())
    (folder / "lib/more.py").rename(folder / "lib/other.py")
    (folder / "client.yaml").write_text(CLIENT.replace("more", "other"))
    renamed = Package.load(folder).checksum
    (folder / "client.py").write_text("print(1)\n")
    assert len({first, renamed, Package.load(folder).checksum}) == 3


def test_predict_and_seed_may_be_missing_until_they_are_wanted(folder: Path) -> None:
    with pytest.raises(PackageRefused, match=r"client\.yaml has no entry point predict"):
        Package.load(folder).argv("predict")
    (folder / "client.yaml").write_text(CLIENT.replace("settings:", "  seed: [python3, client.py, seed]\nsettings:"))
    assert Package.load(folder).argv("seed")[-1] == "$SANDBOX_PATH/model.safetensors"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("settings:", "setings:", r"client\.yaml:5: setings: unknown key, did you mean settings\?"),
        ("  train:", "  tran:", r"client\.yaml:3: entry_points\.tran: Input should be 'train'"),
        ("  validate: [python3, ./client.py, validate]\n", "", r"client\.yaml:2: entry_points: there is no entry point validate"),
        ("client.py, train", "clint.py, train", r"entry_points\.train: there is no file clint\.py in the package \(there are: client\.py"),
        ("[python3, ./client.py, validate]", "[./client.py]", r"entry_points\.validate: begins with ./client\.py, and nothing of a package is"),
        ("[python3, ./client.py, validate]", "[]", r"client\.yaml:4: entry_points\.validate: is empty"),
        ("settings:", "class: Client\nsettings:", r"client\.yaml:5: class: 'Client' is not allowed"),
        ("settings:", "class: network:Client\nsettings:", r"class: there is no file network\.py in the package"),
        ("settings:", "image_digest: latest\nsettings:", r"client\.yaml:5: image_digest: 'latest' is not allowed \(write sha256:"),
        ("name: tiny", "name: [", r"client\.yaml:3: expected .* half edited"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_its_file_is_named(folder: Path, old: str, new: str, said: str) -> None:
    (folder / "client.yaml").write_text(CLIENT.replace(old, new))
    with pytest.raises(PackageRefused, match=said):
        Package.load(folder)


def test_a_folder_that_is_none_and_one_without_client_yaml(folder: Path, tmp_path: Path) -> None:
    (folder / "client.yaml").unlink()
    with pytest.raises(PackageRefused, match=r"tiny: has no client\.yaml"):
        Package.load(folder)
    with pytest.raises(PackageRefused, match="nowhere: is no folder"):
        Package.load(tmp_path / "nowhere")


def test_links_strange_names_and_data_are_not_handed_over(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(PackageRefused, match="passwd: is no plain file"):
        Package.load(folder)
    (folder / "passwd").unlink()
    (folder / "two\nlines").write_text("")
    with pytest.raises(PackageRefused, match="holds a control character"):
        Package.load(folder)
    (folder / "two\nlines").unlink()
    with (folder / "data.npz").open("wb") as file:
        file.truncate(65 * 1024**2)
    with pytest.raises(PackageRefused, match="4 files of 65 MiB are no client package"):
        Package.load(folder)
