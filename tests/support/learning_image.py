"""An image with python3 and what the federation's own program for nodes needs, made of the packages of this environment: no registry is asked."""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import docker
import pytest

from tests.conftest import Services

PACKAGES = (
    "numpy", "safetensors", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "cryptography", "cffi",
)  # fmt: skip
#: Where Debian's python3 looks.
PLACE = "usr/local/lib/python3.11/dist-packages"


def learning_image(services: Services) -> str:
    """Its name; it is made once for these versions."""
    if not platform.python_version().startswith("3.11."):
        pytest.skip("the image's Python is 3.11, and has no use for the packages of another one")
    versions = " ".join(f"{name}={distribution(name).version}" for name in PACKAGES)
    tag = hashlib.sha256(versions.encode()).hexdigest()[:12]
    client = docker.DockerClient(services.docker_host)
    try:
        if f"fem-learning:{tag}" not in {name for image in client.images.list() for name in image.tags}:
            container = client.containers.create(services.images["python"], ["true"])
            try:
                container.put_archive("/", _archive())
                container.commit("fem-learning", tag)
            finally:
                container.remove()
    finally:
        client.close()
    return f"fem-learning:{tag}"


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, path in _files():
            tar.add(path, f"{PLACE}/{name}", recursive=False)
    return buffer.getvalue()


def _files() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for file in distribution(package).files or ():
            if not {"..", "tests", "__pycache__"} & set(file.parts):
                yield str(file), Path(str(file.locate()))
