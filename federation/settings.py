"""The centre's settings: `fem.toml`, overridden by FEM_* variables. Without either it is an embedded federation in ~/.fem."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fdn_worker.errors import SettingsError


def default_home() -> Path:
    """FEM_HOME, or ~/.fem."""
    return Path(os.environ.get("FEM_HOME") or Path.home() / ".fem").absolute()


class EnvironmentFirst(BaseSettings):
    """Settings of a file, overridden by the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


class CentreSettings(EnvironmentFirst):
    """Where broker, store and records are, and how the centre signs. An address left out is the embedded one in `home`."""

    model_config = SettingsConfigDict(env_prefix="FEM_", extra="forbid", frozen=True)

    #: Folder of the embedded federation, of keys and of bundles.
    home: Path = Field(default_factory=default_home)
    #: amqps://USER:PASSWORD@HOST, or sqlite:///PATH.
    broker_url: SecretStr = SecretStr("")
    #: http[s]://USER:PASSWORD@HOST:PORT of RabbitMQ's management interface, through which enrolment makes the sites' users;
    #: None: they are somebody else's business.
    broker_management_url: SecretStr | None = None
    #: What the users made there log in with: a certificate that bears their name, or a password in their bundle.
    site_login: Literal["certificate", "password"] = "certificate"
    #: The broker's address as the sites see it, without a login, for their bundles; empty: as the centre does.
    broker_site_url: str = ""
    #: s3://KEY:SECRET@HOST/BUCKET, s3+http://..., or file:///PATH.
    store_url: SecretStr = SecretStr("")
    #: The store's address as the sites see it, where it differs: it is part of what is signed.
    store_site_url: str = ""
    #: An SQLAlchemy address: postgresql+psycopg://..., or sqlite:///PATH.
    records_url: SecretStr = SecretStr("")
    #: The centre's private key; None leaves orders unsigned, which only an embedded federation takes.
    key: Path | None = None
    key_id: str = "centre"
    #: Keys by which the centre signed before, key id -> public key: nodes are still to trust them, and its own log is checked by them.
    former_keys: Annotated[dict[str, str], Field(default_factory=dict)]
    #: `process`: each flow process carries a relay (one at a time is active); `service`: `fem relay` alone.
    relay: Literal["process", "service"] = "process"
    #: Take sources from file:// addresses as well as https://.
    source_allow_file: bool = False
    #: Seconds that a cancel may take before a run that is past its deadline counts as lost.
    patience: float = 30.0
    #: Where spans of OpenTelemetry go, the base address of OTLP over HTTP such as http://127.0.0.1:4318; empty: none are made.
    trace_endpoint: Annotated[str, StringConstraints(pattern=r"^$|^https?://[^\s@]+$")] = ""
    #: Seconds after the execution's deadline by which outputs must have left their site.
    release: Annotated[float, Field(ge=0)] = 7 * 24 * 3600.0

    def model_post_init(self, _: Any) -> None:
        embedded = {"broker_url": "sqlite:///{}/broker.db", "store_url": "file://{}/store", "records_url": "sqlite:///{}/records.db"}
        for name, address in embedded.items():
            if not getattr(self, name).get_secret_value():
                object.__setattr__(self, name, SecretStr(address.format(self.home)))
        if self.key is None and not self.embedded:
            raise SettingsError(
                "the centre has no signing key, and this broker is not an embedded one",
                remedy="make one with `fem keys` and set key (FEM_KEY)",
            )

    @property
    def embedded(self) -> bool:
        """Everything on one machine, unsigned messages taken."""
        return self.broker_url.get_secret_value().startswith("sqlite:")


def read_file() -> tuple[Path, dict[str, Any]]:
    """FEM_SETTINGS, or `fem.toml` in the home folder if it is there: its path, and what it says."""
    named = os.environ.get("FEM_SETTINGS")
    path = Path(named) if named else default_home() / "fem.toml"
    if not (named or path.exists()):
        return path, {}
    try:
        return path, tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}", remedy="mend FEM_SETTINGS") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}", remedy="mend the TOML there") from error


def load() -> CentreSettings:
    """Read the settings file and the environment. The table `serve` is the gateway's own."""
    path, data = read_file()
    data.pop("serve", None)
    try:
        return CentreSettings(**data)
    except ValidationError as error:
        raise told(error, str(path), CentreSettings) from error


def told(error: ValidationError, place: str, model: type[BaseSettings]) -> SettingsError:
    """The same, with each key that is wrong, and all that there are."""
    problems = "; ".join(f"{place}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return SettingsError(problems, remedy=f"known keys: {', '.join(model.model_fields)}")
