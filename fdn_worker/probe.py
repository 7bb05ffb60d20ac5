"""Whether tasks are really confined: a task of the worker's own is started as any other is, looks round, and tries what it must not."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from fdn_worker.errors import FdnError, LauncherUnavailable, TaskFailed
from fdn_worker.findings import Finding
from fdn_worker.launchers import Images, Launcher, LaunchSpec
from fdn_worker.protections import MEMORY, PROTECTIONS, SCRIPT, Facts, besides
from fdn_worker.protocol import Resources
from fdn_worker.settings import WorkerSettings

#: Images that are tried for a shell, and seconds that one attempt may take.
_MOST_IMAGES, _SECONDS = 5, 60.0
_DISK = 1024**2
#: A folder of every Linux machine below which something is mounted: control groups.
_NESTED = Path("/sys/fs")


def hardening(name: str, launcher: Launcher, settings: WorkerSettings) -> Iterator[Finding]:
    """A finding for each protection, of a launcher whose tasks come from images."""
    what = f"hardening by {name}"
    try:
        image, facts = _facts(launcher, settings)
    except FdnError as error:
        yield Finding(False, what, error.message, error.remedy or "see the log")
        return
    yield Finding(True, what, f"tried from inside a container of {image}")
    for protection in PROTECTIONS:
        sound = protection.holds(facts)
        yield Finding(sound, f"  {protection.what}", protection.shown(facts), "" if sound else protection.remedy)
    yield Finding(True, "  besides", besides(facts))


def _facts(launcher: Launcher, settings: WorkerSettings) -> tuple[str, Facts]:
    """The image that was used, and what was found in it. Raises the launcher's errors; TaskFailed (probe-image) without an image."""
    for image in _images(launcher, settings):
        try:
            return image, _looked_round(launcher, settings, image)
        except TaskFailed as error:
            if error.code != "command-not-found" or settings.probe_image:
                raise
    raise TaskFailed("no image here has a shell", code="probe-image", remedy="load one that has, such as busybox, or set probe_image")


def _images(launcher: Launcher, settings: WorkerSettings) -> list[str]:
    if settings.probe_image:
        return [settings.probe_image]
    assert isinstance(launcher, Images)
    return [image.name for image in sorted(launcher.images(), key=lambda image: image.size)][:_MOST_IMAGES]


def _looked_round(launcher: Launcher, settings: WorkerSettings, image: str) -> Facts:
    try:
        return _look_round(launcher, settings, image, {"nested": _NESTED})
    except LauncherUnavailable:
        # A rootless engine may not take a folder apart from what is mounted below it.
        return _look_round(launcher, settings, image, {})


def _look_round(launcher: Launcher, settings: WorkerSettings, image: str, datasets: Mapping[str, Path]) -> Facts:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=settings.state_dir))
    # No id of a node holds a dot, so no worker takes it for one of its own.
    name, node = f"fdn-{folder.name}", f"{settings.node}.probe"
    lines: list[str] = []
    watch = threading.Timer(_SECONDS, launcher.stop, (name, 0))
    try:
        for below in ("sandbox", "data"):
            (folder / below).mkdir()
        # So that nothing but the mount keeps a write out.
        (folder / "data").chmod(0o777)
        spec = LaunchSpec(
            name=name, node=node, argv=("/bin/sh", "-c", SCRIPT), image=launcher.prepare(image, None), environment={},
            sandbox=folder / "sandbox", datasets={"probe": folder / "data", **datasets}, resources=Resources(cpus=1, memory=MEMORY, disk=_DISK),
        )  # fmt: skip
        watch.start()
        launcher.start(spec)
        launcher.follow(name, lambda line: lines.append(line.text))
    finally:
        watch.cancel()
        try:
            launcher.remove(name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    facts = Facts(line.partition("=")[::2] for line in lines if "=" in line)
    if "looked" not in facts:
        raise TaskFailed(f"{image} did not look round to its end", code="probe-image", remedy="set probe_image to one with a POSIX shell")
    return facts
