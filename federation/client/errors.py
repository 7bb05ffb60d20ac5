"""What the gateway refuses, in its own words."""

from __future__ import annotations

import httpx


class Problem(Exception):
    """An answer that is an error. `status` is HTTP's, `code` the error's short name, `remedy` how to mend it."""

    def __init__(self, status: int, detail: str, code: str = "", remedy: str = "") -> None:
        super().__init__(f"{detail} ({remedy})" if remedy else detail)
        self.status, self.detail, self.code, self.remedy = status, detail, code, remedy


def problem_of(answer: httpx.Response) -> Problem:
    """The answer, which was read, as an error; also one that a proxy gave."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or "detail" not in told:
        return Problem(answer.status_code, f"{answer.request.url}: {answer.status_code} {answer.reason_phrase}")
    return Problem(answer.status_code, str(told["detail"]), told.get("code", ""), told.get("remedy", ""))
