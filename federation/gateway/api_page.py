"""The page that shows an interface's description: Swagger UI out of a package, since pages here fetch nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

#: Where its scripts are served.
ASSETS = "/api-page"


def add_assets(app: FastAPI) -> None:
    """Serve what the pages need."""
    app.mount(ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name="api-page")


def page(description: str, title: str) -> HTMLResponse:
    """The page of the description at that address."""
    return get_swagger_ui_html(
        openapi_url=description, title=title, swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js", swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png", swagger_ui_parameters={"validatorUrl": None},
    )  # fmt: skip
