"""The policy file as it is read: wrong keys with their place, names with one spelling, a file that changes or breaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import SettingsError
from fdn_worker.policy import PolicyFile
from fdn_worker.policy.document import Policy, read
from fdn_worker.policy.example import EXAMPLE, write_example
from fdn_worker.policy.names import HUB, check_source_pattern, image_digest, image_matches, image_name, image_pattern, source_name
from tests.support.policies import DIGESTS, SIGNERS

RULE = '[[rule]]\nid = "one"\neffect = "allow"\n'


def wrong(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(text, Path("/etc/policy.toml"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]\n", "policy file /etc/policy.toml: Expected"),
        (
            RULE + RULE.replace("one", "two") + 'dataset = ["x"]\n',
            "/etc/policy.toml:7: unknown key 'rule.1.dataset', did you mean 'datasets'?",
        ),
        (RULE + "form = 2030-01-01T00:00:00Z\n", "/etc/policy.toml:4: unknown key 'rule.0.form', did you mean 'from'?"),
        ("[[rules]]\n", "/etc/policy.toml: unknown key 'rules', did you mean 'rule'?"),
        ('[[rule]]\nid = "one"\n', "/etc/policy.toml:1: key 'rule.0.effect' is required"),
        (RULE + RULE, "two rules have the id 'one'"),
        (RULE + "tools = []\n", "/etc/policy.toml:4: rule.0.tools: an empty list matches nothing: leave the key out"),
        (RULE + 'datasets = "census"\n', "/etc/policy.toml:4: rule.0.datasets: Input should be a valid tuple"),
        (RULE + "until = 2030-01-01\n", "/etc/policy.toml:4: rule.0.until: write a moment with its zone, such as 2030-01-31T00:00:00Z"),
        (RULE + "until = 2030-01-01T00:00:00\n", "write a moment with its zone"),
        (RULE + 'digests = ["sha256:abc"]\n', "rule.0.digests.0: String should match pattern"),
        (RULE + f'images = ["x@{DIGESTS[0]}"]\n', "a digest stands in `digests`"),
        (RULE + 'images = ["x y"]\n', "'x y' holds what stands in no image's name"),
        (RULE + 'sources = ["git.example/*"]\n', "'git.example/*' must begin with https:// and a server in small letters"),
        (RULE + 'network = "all"\n', "rule.0.network: Input should be 'none', 'server', 'proxy' or 'open'"),
        (RULE + 'host_paths = ["srv"]\n', "rule.0.host_paths.0: path 'srv' must be absolute"),
        (RULE + 'signed_by = ["author"]\n', "rule 'one' names signer 'author', whose key does not stand under [signers]"),
        ('[signers]\nauthor = "abc"\n', "/etc/policy.toml:2: signers.author: must be an Ed25519 public key, 32 bytes in base64"),
        (RULE.replace("allow", "deny") + 'network = "open"\n', "rule 'one' denies, so that 'network' has no place in it"),
        (RULE + "max_runs = -1\n", "rule.0.max_runs: Input should be greater than or equal to 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, said: str) -> None:
    assert said in wrong(text)


def test_the_example_of_init_can_be_read_and_allows_nothing(tmp_path: Path) -> None:
    path = write_example(tmp_path / "fdn-worker.toml")
    assert path == tmp_path / "policy.toml"
    assert path.stat().st_mode & 0o077 == 0
    assert PolicyFile(path).current().rule == ()
    assert write_example(tmp_path / "fdn-worker.toml") is None
    with pytest.raises(SettingsError, match="No such file"):
        write_example(tmp_path / "gone/fdn-worker.toml")


def test_the_example_has_every_key_and_is_right_once_it_is_uncommented() -> None:
    lines = [line.removeprefix("# ") for line in EXAMPLE[EXAMPLE.index("# Whose") :].splitlines()[1:]]
    text = "\n".join(line.removeprefix("# ") if " = " in line else "" if line[:1].isupper() or line[:1] == "#" else line for line in lines)
    text = text.replace("sha256:...", DIGESTS[0]).replace('author = "..."', f'author = "{SIGNERS["author"]}"')
    denies, allows = read(text, Path("x")).rule
    assert (denies.effect, allows.effect) == ("deny", "allow")
    there = denies.model_fields_set | allows.model_fields_set
    assert set(type(allows).model_fields) - there == {"from_", "gpus", "disk"}


# Names


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("python", (f"{HUB}/library/python", "latest")),
        (f"index.{HUB}/python:3", (f"{HUB}/library/python", "3")),
        ("tools/mean:1", (f"{HUB}/tools/mean", "1")),
        ("Registry.Example:443/a/b", ("registry.example/a/b", "latest")),
        ("registry.example:5000/a:2", ("registry.example:5000/a", "2")),
        ("localhost/a", ("localhost/a", "latest")),
        (f"r.example/a@{DIGESTS[0]}", ("r.example/a", "")),
        (f"r.example/a:1@{DIGESTS[0]}", ("r.example/a", "1")),
        # An engine would take these for ids of images, whatever those are.
        ("cafe", None),
        (DIGESTS[0], None),
        ("cafe:1", (f"{HUB}/library/cafe", "1")),
        ("r.example/A", None),
        ("r.example/../a", None),
        ("r.example//a", None),
        ("r.example/a:-", None),
    ],
)
def test_an_image_has_one_name(image: str, name: tuple[str, str] | None) -> None:
    assert image_name(image) == name


def test_the_digest_of_an_order_stands_in_one_of_two_places() -> None:
    assert image_digest("a", DIGESTS[1]) == image_digest(f"a@{DIGESTS[0]}", DIGESTS[1]) == DIGESTS[1]
    assert image_digest(f"a@{DIGESTS[0]}", None) == DIGESTS[0]
    assert image_digest("a", None) is image_digest(None, None) is None


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("**", "registry.example/a/b:1", True),
        ("*", "python", True),
        ("*", "tools/mean", False),
        ("py*:3.*", "python:3.11", True),
        ("registry.example/*", "registry.example/a/b", False),
        ("registry.example/**", "registry.example/a/b", True),
        # A pattern stands for the whole name, or somebody else's registry would do.
        ("registry.example/*", "registry.example.evil.org/a", False),
        ("registry.example/*", "evil.org/registry.example/a", False),
        ("registry.example/a:1", "registry.example/a:11", False),
        ("*/tools/mean", "registry.example/tools/mean", True),
        ("registry.example:*/a", "registry.example:5000/a", True),
    ],
)
def test_a_pattern_stands_for_the_whole_name(pattern: str, image: str, fits: bool) -> None:
    name = image_name(image)
    assert name is not None
    assert image_matches(pattern, name) is fits


@given(st.from_regex(r"([a-z]{1,4}(\.[a-z]{1,3}|:[0-9]{2,4})?/)?([a-z]{1,4}/)?[a-z]{3}x(:[a-z0-9]{1,4})?", fullmatch=True))
def test_every_name_is_matched_by_itself_and_completing_it_again_changes_nothing(image: str) -> None:
    name = image_name(image)
    assert name is not None
    assert image_matches(image, name)
    assert image_name(":".join(name)) == name
    assert image_pattern(name[0])[0] == name[0]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://GIT.example:443/a/b.git", "https://git.example/a/b"),
        ("https://git.example/a/b/", "https://git.example/a/b"),
        ("file:///srv/x", "file:///srv/x"),
        ("https://git.example@evil.org/a", None),
        ("https://evil.org?.git.example/a", None),
        ("https://git.example/a/../b", None),
        ("https://git.example/a%2e/b", None),
        ("https://git.example//a", None),
    ],
)
def test_a_source_has_one_name(address: str, name: str | None) -> None:
    assert source_name(address) == name


@pytest.mark.parametrize("pattern", ["https://*.example/x", "https://a@b/x", "https://A.example/x", "*", "https://git.example"])
def test_a_pattern_of_sources_names_its_server(pattern: str) -> None:
    with pytest.raises(ValueError, match="must begin with"):
        check_source_pattern(pattern)


# The file


def test_a_file_is_read_anew_when_it_changes_and_told_of_once(tmp_path: Path) -> None:
    path, told = tmp_path / "policy.toml", list[str]()
    file = PolicyFile(path, lambda found: told.append(str(found) if isinstance(found, SettingsError) else found.digest[:4]))
    with pytest.raises(SettingsError, match=r"policy file .*: No such file or directory \(put it there, readable for the worker's user\)"):
        file.current()
    path.write_text(RULE)
    first = file.current()
    assert first is file.current()
    path.write_text(RULE + "x = 1\n")
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"unknown key 'rule\.0\.x'"):
            file.current()
    path.write_text("# the same length as before" + "\n")
    os.utime(path, ns=(1, 1))
    assert file.current().rule == ()
    path.touch()
    assert file.current().rule == ()
    path.unlink()
    with pytest.raises(SettingsError):
        file.current()
    assert [one.partition(":")[0] for one in told][::2] == ["policy file " + str(path), str(path), "policy file " + str(path)]
    assert told[1] == first.digest[:4]
    assert len(told) == 5


def test_who_cannot_be_told_of_a_policy_is_not_ruled_by_it(tmp_path: Path) -> None:
    path, fails = tmp_path / "policy.toml", [OSError("full")]

    def told(_: Policy | SettingsError) -> None:
        if fails:
            raise fails.pop()

    path.write_text(RULE)
    file = PolicyFile(path, told)
    with pytest.raises(OSError, match="full"):
        file.current()
    assert file.current().rule[0].id == "one"


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\xff"), lambda path: path.mkdir()])
def test_what_is_no_text_is_no_policy(tmp_path: Path, make: object) -> None:
    make(tmp_path / "policy.toml")  # type: ignore[operator]
    with pytest.raises(SettingsError, match="policy file"):
        PolicyFile(tmp_path / "policy.toml").current()
