"""Images and sources by names that have one spelling each, so that no other one slips past a pattern.

An image's name is completed as Docker completes it: `python` is that of `docker.io`, in the folder `library`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fdn_worker.globs import Glob

HUB = "docker.io"
#: An engine may take these for the beginning of an image's id, whatever that image is.
_AN_ID = re.compile(r"(sha256:)?[0-9a-f]+")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"[A-Za-z0-9.\[\]:-]+/{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
#: No user, query, escape or empty part: what reads otherwise than it is fetched has no name.
_SOURCE = re.compile(r"(https://[A-Za-z0-9.\[\]:-]+|file://)((?:/[A-Za-z0-9._~+=,-]+)+)/?")
_WILD = re.compile(r"[*?]")


@lru_cache(4096)
def matches(pattern: str, name: str) -> bool:
    """Whether the pattern stands for the whole name; `*` stays within a part between slashes."""
    return Glob(pattern).matches(name)


def split(image: str) -> tuple[str, str]:
    """Repository and tag of a name without a digest; the tag may be ""."""
    head, colon, tag = image.rpartition(":")
    # a colon before a slash is that of a registry's port
    return (head, tag) if colon and "/" not in tag else (image, "")


def _complete(repository: str) -> str:
    """The repository with its registry."""
    registry, slash, rest = repository.partition("/")
    if not slash or not (re.search(r"[.:A-Z]", registry) or registry == "localhost"):
        registry, rest = HUB, repository
    registry = registry.lower().removesuffix(":443").replace("index." + HUB, HUB)
    if registry == HUB and "/" not in rest:
        rest = f"library/{rest}"
    return f"{registry}/{rest}"


def image_name(image: str) -> tuple[str, str] | None:
    """The whole repository and the tag, "" for one that is named by its digest; None for what is no name."""
    name, at, _ = image.partition("@")
    if _AN_ID.fullmatch(name):
        return None
    repository, tag = split(name)
    repository, tag = _complete(repository), tag or ("" if at else "latest")
    return (repository, tag) if _REPOSITORY.fullmatch(repository) and (not tag or _TAG.fullmatch(tag)) else None


def image_digest(image: str | None, digest: str | None) -> str | None:
    """The digest that an order insists on, wherever it says so."""
    return digest or (image.partition("@")[2] or None if image else None)


@lru_cache(4096)
def image_pattern(pattern: str) -> tuple[str, str]:
    """The patterns of the whole repository and of the tag; completed as a name is, unless wildcards stand for the registry."""
    repository, tag = split(pattern)
    first, slash, _ = repository.partition("/")
    whole = "**" in first or (slash and _WILD.search(first))
    return (repository if whole else _complete(repository)), tag or "*"


def image_matches(pattern: str, name: tuple[str, str]) -> bool:
    """Whether the pattern stands for an `image_name`."""
    repository, tag = image_pattern(pattern)
    return matches(repository, name[0]) and matches(tag, name[1])


def source_name(repository: str) -> str | None:
    """The address of a repository; None for one that could be read in two ways."""
    found = _SOURCE.fullmatch(repository)
    if found is None or {".", ".."} & set(found[2].split("/")):
        return None
    return found[1].lower().removesuffix(":443") + found[2].removesuffix(".git")


def source_matches(pattern: str, name: str) -> bool:
    """Whether the pattern stands for a `source_name`."""
    return matches(pattern.removesuffix(".git"), name)


def check_image_pattern(pattern: str) -> str:
    """The pattern; ValueError for one that no image's name can match."""
    if "@" in pattern:
        raise ValueError(f"{pattern!r}: a digest stands in `digests`")
    if not re.fullmatch(r"[A-Za-z0-9._:/*?\[\]-]+", pattern):
        raise ValueError(f"{pattern!r} holds what stands in no image's name")
    return pattern


def check_source_pattern(pattern: str) -> str:
    """The pattern; ValueError unless it names its server, or is "**"."""
    if pattern != "**" and not re.match(r"(https://[a-z0-9.\[\]:-]+|file://)/", pattern):
        raise ValueError(f'{pattern!r} must begin with https:// and a server in small letters, or file:///, or be "**"')
    return pattern
