"""`fem sign-image`: what it prints is what a tool and a policy take."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from fdn_worker.policy.document import read
from fdn_worker.protocol.image import vouches
from flows.cli import app
from tests.support.policies import DIGESTS


def test_what_is_printed_can_be_pasted(tmp_path: Path) -> None:
    key = tmp_path / "author.key"
    said = [CliRunner().invoke(app, ["sign-image", DIGESTS[0], "--key", str(key)]).output for _ in range(2)]
    assert said[0] == f"made {key}: keep it to yourself\n" + said[1]
    assert key.stat().st_mode & 0o077 == 0
    found = re.search(r"^signature: (\S+)$", said[1], re.MULTILINE)
    assert found
    signers = read(said[1][said[1].index("[signers]") :], Path("policy.toml")).signers
    assert vouches(signers["author"], DIGESTS[0], found[1])
    refused = CliRunner().invoke(app, ["sign-image", "mean:1", "--key", str(key)])
    assert refused.exit_code == 2
    assert "must be sha256: and 64 hexadecimal digits" in " ".join(refused.output.replace("│", "").split())
