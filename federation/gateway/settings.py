"""The gateway's settings: the table `serve` of `fem.toml`, overridden by FEM_SERVE_* variables."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from fdn_worker.errors import SettingsError
from federation.gateway.access import Role
from federation.settings import EnvironmentFirst, read_file, told

Count = Annotated[int, Field(ge=1)]


class GatewaySettings(EnvironmentFirst):
    """Where it listens, who may sign in, and how much anybody may ask."""

    model_config = SettingsConfigDict(env_prefix="FEM_SERVE_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    #: The address that people type, where a proxy stands in front; https here makes cookies Secure.
    public_url: str = ""
    #: Addresses or networks of proxies whose X-Forwarded-* are believed.
    trusted_proxies: tuple[str, ...] = ()
    #: Origins of dashboards that come from elsewhere, such as https://dashboard.example.
    cors_origins: tuple[str, ...] = ()

    #: Minutes that an access token lasts; and one of the FEM REST interface, whose clients cannot refresh it.
    token_minutes: Count = 15
    fem_token_minutes: Count = 720
    #: Days that a refresh token lasts, and hours that a browser stays signed in.
    refresh_days: Count = 30
    session_hours: Count = 12

    #: Issuer of OpenID Connect tokens, as it stands in them; empty: local users alone.
    oidc_issuer: str = ""
    #: What its tokens must be for.
    oidc_audience: str = ""
    #: Claims that hold name, groups that stand for roles, and projects.
    oidc_user_claim: str = "sub"
    oidc_role_claim: str = "groups"
    oidc_project_claim: str = "projects"
    #: A value of the role claim -> role. Who has none of them is refused.
    oidc_roles: Annotated[dict[str, Role], Field(default_factory=dict)]
    #: Seconds that clocks may differ by.
    oidc_skew: Annotated[int, Field(ge=0, le=300)] = 60

    body_limit: ByteSize = ByteSize(1024**2)
    #: Requests a minute of one caller; and tries to sign in, of one address and of one name.
    requests_a_minute: Count = 600
    sign_ins_a_minute: Count = 10
    #: Downloads of one caller, and of all, that this process sends at once.
    downloads_at_once: Count = 4
    downloads_in_all: Count = 64
    #: Seconds in which a client has to take, or send, something before it is let go.
    patience: Count = 30
    #: Connections at once; further ones get 503.
    connections: Count = 2000

    #: With it Prometheus may read /metrics; empty: operators and auditors alone, by tokens of their own.
    metrics_token: SecretStr = SecretStr("")

    #: Folder whose folders are results of simulations, to look at by all who sign in; empty: none.
    simulations: str = ""

    #: Prefect's UI, for links to flow runs; empty: no links.
    prefect_ui: str = ""
    #: DEPLOYMENT of `execute-tool/DEPLOYMENT` that runs executions; empty: this process does.
    deployment: str = ""

    def model_post_init(self, _: Any) -> None:
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise SettingsError("oidc_issuer and oidc_audience go together", remedy="set both, or neither")
        if self.oidc_issuer and not over_tls(self.oidc_issuer):
            raise SettingsError(f"oidc_issuer {self.oidc_issuer} is not over TLS", remedy="give its https:// address")
        if "*" in self.cors_origins:
            raise SettingsError("cors_origins: * would let any page in", remedy="name each origin")

    @property
    def secure(self) -> bool:
        """Whether people come over TLS."""
        return self.public_url.startswith("https://")


def over_tls(address: str) -> bool:
    """Whether nobody on the way can change what comes from there."""
    return address.startswith(("https://", "http://127.0.0.1:", "http://localhost:"))


def load_settings(**given: Any) -> GatewaySettings:
    """The file's table and the environment; what is `given` (by the command line) goes before both."""
    path, data = read_file()
    table = data.get("serve", {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}, serve: {table!r} is no table", remedy="write [serve], and a key in each line below")
    try:
        found = GatewaySettings(**table)
        return found.model_copy(update=given)
    except ValidationError as error:
        raise told(error, f"{path}, serve", GatewaySettings) from error
