"""The two images that tests run, made from Debian packages: no registry is asked.

`fem-busybox:1` is one static binary with all its applets in /bin; `fem-python:1` a minimal Debian with python3.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import IO

from deployments.services.engine import docker
from deployments.services.installs import Install
from deployments.services.place import Place, ServiceError, say

BUSYBOX = "fem-busybox:1"
PYTHON = "fem-python:1"
SUITE = "bookworm"


def missing(place: Place) -> dict[str, bool]:
    """Debian packages with which the images are made."""
    making = not _archive(place).exists()
    return {
        "busybox-static": not _static_busybox(),
        "mmdebstrap": making and shutil.which("mmdebstrap") is None,
        "uidmap": making and os.geteuid() != 0 and shutil.which("newuidmap") is None,
    }


def installs(place: Place) -> list[Install]:
    """The making of the Python image's archive, kept for later engines."""
    archive = _archive(place)
    if archive.exists():
        return []
    archive.parent.mkdir(parents=True, exist_ok=True)
    _unfinished(archive).unlink(missing_ok=True)
    unread = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
    argv = ["mmdebstrap", "--variant=minbase", "--include=python3", *unread, SUITE, str(_unfinished(archive))]
    return [Install(f"a small Debian with python3 for the image {PYTHON}, from Debian's packages (30 s)", argv)]


def keep(place: Place) -> None:
    """The archive is whole: give it its name."""
    if _unfinished(_archive(place)).exists():
        _unfinished(_archive(place)).rename(_archive(place))


def load(place: Place, host: str) -> None:
    """Have both images in the engine."""
    if not _present(host, BUSYBOX):
        _import(host, BUSYBOX, io.BytesIO(busybox_archive()))
    if not _present(host, PYTHON):
        say(f"image {PYTHON} goes into the Docker Engine")
        with _archive(place).open("rb") as file:
            _import(host, PYTHON, file)


def busybox_archive() -> bytes:
    """/bin/busybox, a link to it for each applet, and /tmp."""
    program = shutil.which("busybox") or "busybox"
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777)):
            tar.addfile(_member(folder, tarfile.DIRTYPE, mode))
        binary = Path(program).read_bytes()
        member = _member("bin/busybox", tarfile.REGTYPE, 0o755)
        member.size = len(binary)
        tar.addfile(member, io.BytesIO(binary))
        for applet in sorted(set(applets) - {"busybox"}):
            link = _member(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _import(host: str, image: str, archive: IO[bytes]) -> None:
    with subprocess.Popen(
        ["docker", "--host", host, "import", "-", image], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stderr is not None
        try:
            shutil.copyfileobj(archive, client.stdin, 1 << 20)
            client.stdin.close()
        except BrokenPipeError:
            pass  # it says why below
        problem = client.stderr.read().decode(errors="replace").strip()
    if client.returncode != 0:
        raise ServiceError(f"image {image} was not imported at {host}: {problem}")


def _present(host: str, image: str) -> bool:
    return image in docker(host, "images", "--format", "{{.Repository}}:{{.Tag}}").split()


def _archive(place: Place) -> Path:
    return place.cache / "images" / f"{PYTHON.replace(':', '-')}.tar"


def _unfinished(archive: Path) -> Path:
    return archive.with_name("unfinished-" + archive.name)


def _static_busybox() -> bool:
    """Debian's other busybox is linked dynamically and would not run alone."""
    program = shutil.which("busybox")
    return program is not None and b"/ld-linux" not in Path(program).read_bytes()
