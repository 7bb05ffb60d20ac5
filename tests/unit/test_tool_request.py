"""A submission of a tool: its quorum, and what it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.request import BadRequest, build
from federation.tool_request import ToolRequest

NODES = ("site-a", "site-b", "site-c")


def asked(**fields: Any) -> ToolRequest:
    return build(ToolRequest, **{"tool": "mean", "nodes": NODES} | fields)


@pytest.mark.parametrize(
    ("quorum", "needed"), [("all", 3), (1, 1), ("2", 2), (3, 3), ("34%", 2), ("33%", 1), ("1%", 1), ("100%", 3), ("67 %", 3)]
)
def test_how_many_must_succeed(quorum: object, needed: int) -> None:
    assert asked(quorum=quorum).needed == needed


@given(st.integers(1, 100), st.integers(1, 300))
def test_a_share_is_rounded_up_and_never_nothing(percent: int, nodes: int) -> None:
    needed = asked(nodes=tuple(f"n{number}" for number in range(nodes)), quorum=f"{percent}%").needed
    assert 1 <= needed <= nodes
    assert needed * 100 >= nodes * percent > (needed - 1) * 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quorum": 4}, "quorum 4 is more than the 3 nodes"),
        ({"quorum": "4"}, "quorum 4 is more than the 3 nodes"),
        ({"quorum": "most"}, "'most' is none of: all, a number of nodes, a share such as 80%"),
        ({"quorum": "0%"}, "none of"),
        ({"quorum": "101%"}, "none of"),
        ({"quorum": 0}, "quorum"),
        ({"nodes": ()}, "nodes"),
        ({"nodes": ("site-a", "site-b", "site-a")}, "nodes: site-a named twice"),
        ({"nodes": ("SITE",)}, "use 1 to 63 of a-z"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"on_node_offline": "hope"}, "on_node_offline"),
        ({"quorom": 2}, "quorom: unknown, did you mean quorum?"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        asked(**fields)
    assert message in str(caught.value)
