"""An image, made to be here by the node's pull policy, and its digest checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docker.errors import APIError, NotFound

from fdn_worker.errors import LauncherUnavailable, TaskFailed
from fdn_worker.launchers import PullPolicy
from fdn_worker.launchers.docker_engine import Engine, one_line, reason
from fdn_worker.protocol import ImageHere

#: What registries say of an image that they do not have, or not for us.
_ABSENT = ("not found", "manifest unknown", "access denied", "does not exist", "unauthorized", "denied:")


def ensure(engine: Engine, policy: PullPolicy, image: str, digest: str | None, pulled: Callable[[str], None]) -> str:
    """The reference to start by, pinned: `repository@sha256:...` when a registry gave the image, else the image's id.

    An order's digest may be either of the two. `pulled` is told what had to be pulled. Raises TaskFailed (image-missing, digest-differs).
    """
    here = None if policy == "always" else look(engine, policy, image, digest)
    if here is not None:
        return here
    found = None if policy == "always" else _local(engine, image)
    reference = to_pull(image, digest)
    try:
        pull(engine, reference)
    except (LauncherUnavailable, TaskFailed) as error:
        if found is None:
            raise
        raise _differs(image, found, digest, error.message) from error
    found = _local(engine, reference)
    if found is None:
        raise LauncherUnavailable(f"image {image} was pulled and is gone again", remedy="is something else clearing images away?")
    pulled(reference)
    return _pinned(found, image)


def to_pull(image: str, digest: str | None) -> str:
    """What is asked of the registry: the digest, where one is given, else the name."""
    return f"{_repository(image)}@{digest}" if digest else image


def look(engine: Engine, policy: PullPolicy, image: str, digest: str | None) -> str | None:
    """The same, if the image is here; None if it has yet to be pulled. TaskFailed where the policy forbids that."""
    found = _local(engine, image)
    if found and (digest is None or digest in _digests(found)):
        return _pinned(found, image)
    if policy != "never":
        return None
    if found is None:
        raise TaskFailed(
            f"image {image} is not at this node, whose pull policy is never", code="image-missing", remedy="have the site load it"
        )
    raise _differs(image, found, digest, "its pull policy is never")


def listed(engine: Engine) -> list[ImageHere]:
    """All images that have a name, by name."""
    with engine.to("list images") as api:
        found: list[dict[str, Any]] = api.images()
    return sorted(
        (
            ImageHere(name=name, digest=_pinned(image, name).rpartition("@")[2], size=image["Size"])
            for image in found
            for name in image["RepoTags"] or ()
            if name != "<none>:<none>"
        ),
        key=lambda image: image.name,
    )


def size_of(engine: Engine, image: str) -> int | None:
    """Bytes of the image; None if it is not here."""
    found = _local(engine, image)
    return None if found is None else int(found["Size"])


def drop(engine: Engine, image: str) -> None:
    """Take the name away. Raises TaskFailed (image-missing, image-in-use)."""
    with engine.to(f"remove image {image}") as api:
        try:
            api.remove_image(image)
        except NotFound as error:
            raise TaskFailed(f"image {image} is not here", code="image-missing", remedy="see which are: list them") from error
        except APIError as error:
            if error.status_code != 409:
                raise
            raise TaskFailed(
                f"image {image} is in use: {reason(error)}", code="image-in-use", remedy="wait for its tasks to end"
            ) from error


def _local(engine: Engine, image: str) -> dict[str, Any] | None:
    with engine.to(f"inspect image {image}") as api:
        try:
            found: dict[str, Any] = api.inspect_image(image)  # type: ignore[no-untyped-call]
        except NotFound:
            return None
        except APIError as error:
            if error.status_code == 400:
                raise TaskFailed(f"image {image}: {reason(error)}", code="image-missing", remedy="mend its name") from error
            raise
    return found


def pull(engine: Engine, reference: str) -> None:
    """Have it here, from its registry. Raises TaskFailed (image-missing)."""
    with engine.to(f"pull {reference}") as api:
        tag = None if "@" in reference or ":" in reference.rpartition("/")[2] else "latest"
        try:
            for step in api.pull(reference, tag=tag, stream=True, decode=True):
                if "error" in step:
                    raise _failed_pull(reference, one_line(step["error"]))
        except APIError as error:
            raise _failed_pull(reference, reason(error)) from error


def _failed_pull(reference: str, why: str) -> TaskFailed | LauncherUnavailable:
    if any(word in why.lower() for word in _ABSENT):
        return TaskFailed(
            f"image {reference} cannot be pulled: {why}",
            code="image-missing",
            remedy="mend its name, or have the site log in to its registry",
        )
    return LauncherUnavailable(f"image {reference} cannot be pulled: {why}", remedy="can this node reach the registry?")


def _differs(image: str, found: dict[str, Any], digest: str | None, why: str) -> TaskFailed:
    return TaskFailed(
        f"image {image} is {_pinned(found, image)} here, the order wants {digest}, and {why}", code="digest-differs",
        remedy="have the site load that image, or order the one it has",
    )  # fmt: skip


def _repository(image: str) -> str:
    """`image` without tag and digest."""
    name = image.partition("@")[0]
    return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


def _digests(found: dict[str, Any]) -> set[str]:
    return {found["Id"], *(entry.rpartition("@")[2] for entry in found["RepoDigests"] or ())}


def _pinned(found: dict[str, Any], image: str) -> str:
    known: list[str] = found["RepoDigests"] or []
    own = [entry for entry in known if entry.partition("@")[0] == _repository(image)]
    return (own or [str(found["Id"])])[0]
