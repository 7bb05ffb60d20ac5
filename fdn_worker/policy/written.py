"""What `fdn-worker policy test` judges: an order that was here, or one that is written down for the purpose."""

from __future__ import annotations

import difflib
import json
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError

from fdn_worker.errors import FdnError, SettingsError
from fdn_worker.protocol import TaskOrder
from fdn_worker.protocol.names import run_id

#: May stand beside the other fields, too, instead of in `labels`.
LABELS = ("user", "project", "tool")
#: For whom and when an order that is written down is, unless it says so itself.
_LASTS = timedelta(days=1)
_HOW = 'write it as TOML or JSON: user = "ada", image = ..., datasets = [...]'


def read_order(path: Path, node: str, moment: datetime) -> TaskOrder:
    """The order in a JSON or TOML file; what it leaves out is filled in as for any order. Raises SettingsError."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise SettingsError(f"order {path}: {error}", remedy=_HOW) from error
    return parse_order(text, str(path), node, moment)


def parse_order(text: str, place: str, node: str, moment: datetime) -> TaskOrder:
    """The order in a text; errors name its place."""
    try:
        fields: Any = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"order {place}: {error}", remedy=_HOW) from error
    labels, beside = fields.pop("labels", {}), {name: fields.pop(name) for name in LABELS if name in fields}
    fields.pop("kind", None)
    given = {"execution": uuid4(), "task": "main", "node": node, "attempt": 1, "issued": moment, "deadline": moment + _LASTS,
             "argv": ("true",)} | fields | {"labels": labels | beside if isinstance(labels, dict) else labels}  # fmt: skip
    try:
        order = TaskOrder(**{"run": run_id(UUID(str(given["execution"])), given["task"], given["node"])} | given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'order'}: {item['msg']}" for item in error.errors())
        raise SettingsError(f"order {place}: {wrong}", remedy="write it as the centre's messages do") from error
    except (FdnError, TypeError, ValueError) as error:
        raise SettingsError(f"order {place}: {error}", remedy="write it as the centre's messages do") from error
    for name in order.unknown_fields():
        near = difflib.get_close_matches(name, [*TaskOrder.model_fields, *LABELS], n=1)
        raise SettingsError(f"order {place}: {name}: unknown" + (f", did you mean {near[0]!r}?" if near else ""))
    return order
