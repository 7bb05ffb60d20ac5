"""Random policies and orders, and a reading of a policy that shares nothing with the worker's: from the TOML and the JSON alone.

The reading is written from docs/reference/policy.md, as slowly and plainly as can be: every rule is looked at for every order.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.support.rig import Rig, eventually

HUB = "docker.io"
MOMENT = datetime(2030, 6, 1, tzinfo=UTC)
OWN_LAUNCHER = "docker"
DIGESTS = [f"sha256:{letter * 64}" for letter in "abc"]
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number, name in enumerate(("author", "lab"), 1)}
SIGNERS = {name: base64.b64encode(key.public_key().public_bytes_raw()).decode() for name, key in KEYS.items()}

TOOLS = (["mean", "fl-average", "hist", ""], ["mean", "fl-*", "h?st", "*", "**", "?*", "fl-"])
USERS = (["ada@uni.example", "bob@lab.example", "guest-1", ""], ["ada@uni.example", "*@uni.example", "guest-*", "*", "?*", "*@*"])
PROJECTS = (["census", "trial/one", ""], ["census", "trial/*", "trial", "**", "*"])
IMAGES = (
    ["python:3.11", "python", f"index.{HUB}/python", "library/python:3.12", "tools/mean:1", "registry.example/tools/mean:1",
     "REGISTRY.example/tools/mean:2", "registry.example:443/tools/mean", f"registry.example/tools/mean@{DIGESTS[0]}", "registry.example:5000/tools/x",
     "registry.example/tools/deep/x:1", "localhost/tools/mean:1", "cafe", "cafe:1", "sha256:abab", "registry.example/Tools/mean", "ab..c/x"],
    ["python", "python:3.*", "tools/*", "registry.example/tools/*", "registry.example/**", "registry.example/tools/mean:1", "*/tools/mean", "**", "cafe",
     "localhost/tools/*", "registry.example:*/tools/*", "**:1", "py*:*", "Registry.Example/tools/mean"],
)  # fmt: skip
SOURCES = (
    ["https://git.example/tools/mean", "https://git.example/tools/mean.git", "https://GIT.example:443/tools/mean", "https://git.example/tools/../x",
     "https://git.example@evil.example/tools/mean", "https://git.example/tools/mean?x", "https://evil.example/tools/mean", "file:///srv/git/mean",
     "https://git.example//tools/mean", "https://git.example/tools/mean/"],
    ["https://git.example/tools/*", "https://git.example/**", "https://git.example/tools/mean.git", "file:///srv/**", "**"],
)  # fmt: skip
DATASETS = (["census", "trial-1", "trial-2", "births"], ["census", "trial-*", "*", "births", "trial-?"])
SHELVES = (["models", "tables"], ["models", "*", "t*"])
SECRETS = (["token", "password"], ["token", "*"])
PATHS = (["/srv/a", "/srv/a/b", "/srv/ab", "/opt"], ["/srv/a", "/srv", "/opt/x"])
LAUNCHERS = ([None, "docker", "process", "podman"], ["docker", "process", "*", "p*"])


def put_policy(house: Rig, node: str, text: str) -> None:
    """Give a worker another policy; returns once it is in force. It stands in the home folder of the federation."""
    said = house.log(node).count("is in force")
    path = house.federation.home / "policy.toml"
    # Also one that is the same as before is a new one.
    path.with_suffix(".new").write_text(text + f"# {uuid4()}\n")
    path.with_suffix(".new").replace(path)
    eventually("the policy is in force", lambda: house.log(node).count("is in force") > said)


# Drawn at random


def some(rng: random.Random, pool: list[str], most: int = 3) -> list[str]:
    return rng.sample(pool, rng.randint(1, min(most, len(pool))))


def a_rule(rng: random.Random, number: int) -> dict[str, Any]:
    """A rule that leaves most keys out, so that orders have a chance."""
    rule: dict[str, Any] = {"id": f"rule-{number}", "effect": rng.choice(["allow", "allow", "allow", "deny"])}
    deny = rule["effect"] == "deny"

    def maybe(key: str, chance: float, value: Any) -> None:
        if rng.random() < (chance * 0.7 if deny else chance):
            rule[key] = value() if callable(value) else value

    for key, (_, patterns), chance in (("tools", TOOLS, 0.3), ("users", USERS, 0.3), ("projects", PROJECTS, 0.2), ("images", IMAGES, 0.4)):
        maybe(key, chance, lambda patterns=patterns: some(rng, patterns, 4))
    maybe("digests", 0.1, lambda: some(rng, DIGESTS, 2))
    maybe("signed_by", 0.1, lambda: some(rng, list(SIGNERS), 2))
    for key in ("from", "until"):
        maybe(key, 0.15, lambda: MOMENT + timedelta(days=rng.choice([-9, 0, 9])))
    maybe("datasets", 0.5 if deny else 0.9, lambda: some(rng, DATASETS[1]))
    maybe("sources", 0.6, lambda: some(rng, SOURCES[1], 2))
    maybe("launchers", 0.3, lambda: some(rng, LAUNCHERS[1], 2))
    if not deny:
        maybe("network", 0.6, lambda: rng.choice(["none", "server", "proxy", "open", "open"]))
        maybe("shelves", 0.6, lambda: some(rng, SHELVES[1], 1))
        maybe("secrets", 0.6, lambda: some(rng, SECRETS[1], 1))
        maybe("host_paths", 0.6, lambda: some(rng, PATHS[1], 2))
        maybe("keep_sandboxes", 0.6, lambda: rng.random() < 0.8)
        maybe("cpus", 0.2, lambda: rng.choice([0.5, 1.0, 2, 8]))
        for key in ("memory", "disk"):
            maybe(key, 0.1, lambda: rng.choice(["512MiB", "1GiB", 4 * 1024**3]))
        maybe("gpus", 0.2, lambda: rng.choice([0, 1]))
        maybe("timeout", 0.1, lambda: rng.choice([60, 3600, 7200.5]))
        maybe("max_runs", 0.15, lambda: rng.choice([0, 1, 5]))
        maybe("max_at_once", 0.15, lambda: rng.choice([0, 1, 5]))
    return rule


def a_policy(rng: random.Random) -> str:
    """The text of a policy."""
    lines = ["[signers]", *(f'{name} = "{key}"' for name, key in SIGNERS.items())]
    for number in range(rng.randint(0, 6)):
        lines += ["[[rule]]", *(f"{key} = {_toml(value)}" for key, value in a_rule(rng, number).items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value)


def an_asking(rng: random.Random) -> dict[str, Any]:
    """Fields of an order, most of them left out."""
    fields: dict[str, Any] = {
        "labels": {"tool": rng.choice(TOOLS[0]), "user": rng.choice(USERS[0]), "project": rng.choice(PROJECTS[0])},
        "resources": {"cpus": rng.choice([0.5, 1, 4]), "memory": rng.choice([512 * 1024**2, 2 * 1024**3]), "gpus": rng.choice([0, 0, 0, 1])},
        "timeout": rng.choice([60, 3600, 7200]),
    }  # fmt: skip
    chances: dict[str, tuple[float, Any]] = {
        "image": (0.9, lambda: rng.choice(IMAGES[0])),
        "image_digest": (0.5, lambda: rng.choice(DIGESTS)),
        "datasets": (0.5, lambda: some(rng, DATASETS[0], 2)),
        "source": (0.2, lambda: {"repository": rng.choice(SOURCES[0]), "commit": "0" * 40}),
        "launcher": (0.2, lambda: rng.choice(LAUNCHERS[0])),
        "network": (0.15, lambda: True),
        "ports": (0.07, lambda: [{"container": 80}]),
        "servers": (0.07, lambda: [{"node": "site-b", "host": "b.example", "ports": {}}]),
        "sandbox": (0.1, lambda: "cache"),
        "moves": (0.1, lambda: [{"source": "", "shelf": shelf, "to": "x"} for shelf in some(rng, SHELVES[0], 2)]),
        "secrets": (0.1, lambda: some(rng, SECRETS[0], 2)),
        "mounts": (0.15, lambda: [rng.choice([
            {"kind": "dataset", "source": f"{rng.choice(DATASETS[0])}/below", "target": "/x"}, {"kind": "sandbox", "source": "", "target": "/x"},
            {"kind": "host", "source": rng.choice(PATHS[0]), "target": "/x"}])]),
    }  # fmt: skip
    fields |= {name: draw() for name, (chance, draw) in chances.items() if rng.random() < chance}
    digest = fields.get("image_digest") or fields.get("image", "").partition("@")[2]
    if digest and rng.random() < 0.5:
        signed = rng.choice([b"fdn image 1\n" + digest.encode(), digest.encode()])
        fields["image_signature"] = base64.b64encode(rng.choice(list(KEYS.values())).sign(signed)).decode()
    return fields


# Read by brute force


def answer(
    policy: Mapping[str, Any], order: Mapping[str, Any], runs: Mapping[str, tuple[int, int]], own: str = OWN_LAUNCHER
) -> tuple[bool, str | None]:
    """Whether the policy lets the order in at MOMENT, and the rule that says so. Policy and order as their files have them; `runs` by rule."""
    signers = policy.get("signers", {})
    fitting = [rule for rule in policy.get("rule", []) if all(_holds(rule, order, runs, signers, own))]
    for effect in ("deny", "allow"):
        for rule in fitting:
            if rule["effect"] == effect:
                return effect == "allow", rule["id"]
    return False, None


def _holds(
    rule: Mapping[str, Any], order: Mapping[str, Any], runs: Mapping[str, tuple[int, int]], signers: Mapping[str, str], own: str
) -> list[bool]:
    deny, labels, needs = rule["effect"] == "deny", order["labels"], order["resources"]
    image, digest = order["image"], order["image_digest"] or (order["image"] or "").partition("@")[2]
    names = _image(image) if image else []
    launcher = order["launcher"] or own
    datasets = {*order["datasets"], *(mount["source"].split("/")[0] for mount in order["mounts"] if mount["kind"] == "dataset")}
    hosts = [mount["source"] for mount in order["mounts"] if mount["kind"] == "host"]
    source = order["source"] and order["source"]["repository"]
    checks = [
        "tools" not in rule or _one(rule["tools"], labels["tool"]),
        "users" not in rule or _one(rule["users"], labels["user"]),
        "projects" not in rule or _one(rule["projects"], labels["project"]),
        "images" not in rule or any(_image_fits(pattern, names) for pattern in rule["images"]),
        "digests" not in rule or digest in rule["digests"],
        "signed_by" not in rule or any(_signed(signers[name], digest, order["image_signature"]) for name in rule["signed_by"]),
        "from" not in rule or rule["from"] <= MOMENT,
        "until" not in rule or rule["until"] > MOMENT,
    ]
    if deny:
        return [
            *checks,
            "launchers" not in rule or _one(rule["launchers"], launcher),
            "datasets" not in rule or any(_one(rule["datasets"], name) for name in datasets),
            "sources" not in rule or bool(source and _source_fits(rule["sources"], source)),
        ]
    serves, network = bool(order["ports"] or order["servers"]), order["network"]
    granted = rule.get("network", "none")
    ever, now = runs.get(rule["id"], (0, 0))
    return [
        *checks,
        _one(rule.get("launchers", [own]), launcher),
        all(_one(rule.get("datasets", []), name) for name in datasets),
        not source or _source_fits(rule.get("sources", []), source),
        granted == "open" or (granted == "server" if serves else granted == "proxy" or not network),
        all(_one(rule.get("shelves", []), move["shelf"]) for move in order["moves"]),
        all(_one(rule.get("secrets", []), name) for name in order["secrets"]),
        all(any(f"{path}/".startswith(f"{root}/") for root in rule.get("host_paths", [])) for path in hosts),
        not order["sandbox"] or rule.get("keep_sandboxes", False),
        *(key not in rule or needs[key] <= _size(rule[key]) for key in ("cpus", "memory", "gpus", "disk")),
        "timeout" not in rule or order["timeout"] <= rule["timeout"],
        "max_runs" not in rule or ever < rule["max_runs"],
        "max_at_once" not in rule or now < rule["max_at_once"],
    ]


def _one(patterns: list[str], name: str) -> bool:
    return any(_glob(pattern, name) for pattern in patterns)


def _glob(pattern: str, name: str) -> bool:
    """By a regular expression, in which each wildcard becomes what the reference says."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))
    return re.fullmatch(regex, name, re.DOTALL) is not None


def _size(value: Any) -> float:
    if isinstance(value, str):
        number, unit = re.fullmatch(r"(\d+)(MiB|GiB)", value).groups()  # type: ignore[union-attr]
        return int(number) * {"MiB": 1024**2, "GiB": 1024**3}[unit]
    return float(value)


def _image(image: str) -> list[str]:
    """[registry, path, tag]; nothing for an id or what is no name."""
    name, at, _ = image.partition("@")
    if re.fullmatch("(sha256:)?[0-9a-f]*", name):
        return []
    registry, path, tag = _parts(name)
    valid = all(re.fullmatch(r"[a-z0-9]+([._-]+[a-z0-9]+)*", part) and ".." not in part for part in path.split("/"))
    return [registry, path, tag or ("" if at else "latest")] if valid else []


def _parts(name: str) -> tuple[str, str, str]:
    *folders, last = name.split("/")
    last, _, tag = last.partition(":")
    if folders and (set(".:") & set(folders[0]) or folders[0] == "localhost" or folders[0].lower() != folders[0]):
        registry = folders.pop(0).lower()
        registry = registry[:-4] if registry.endswith(":443") else registry
        registry = HUB if registry == f"index.{HUB}" else registry
    else:
        registry = HUB
    if registry == HUB and not folders:
        folders = ["library"]
    return registry, "/".join([*folders, last]), tag


def _image_fits(pattern: str, names: list[str]) -> bool:
    if not names:
        return False
    first = pattern.split("/")[0]
    if "**" in first or ("/" in pattern and set("*?") & set(first)):
        repository, _, tag = pattern.rpartition(":") if ":" in pattern.split("/")[-1] else (pattern, "", "")
    else:
        registry, path, tag = _parts(pattern)
        repository = f"{registry}/{path}"
    return _glob(repository, f"{names[0]}/{names[1]}") and _glob(tag or "*", names[2])


def _signed(key: str, digest: str, signature: str | None) -> bool:
    if not digest or not signature:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).verify(base64.b64decode(signature), f"fdn image 1\n{digest}".encode())
    except InvalidSignature:
        return False
    return True


def _source_fits(patterns: list[str], address: str) -> bool:
    scheme, _, rest = address.partition("://")
    if re.search(r"[?#@%\\]|\.\.|//", rest):
        return False
    host, _, path = rest.partition("/")
    host = host.lower()
    host = host[:-4] if host.endswith(":443") else host
    path = path.rstrip("/")
    address = f"{scheme}://{host}/{path[:-4] if path.endswith('.git') else path}"
    return any(_glob(pattern[:-4] if pattern.endswith(".git") else pattern, address) for pattern in patterns)
