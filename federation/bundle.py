"""The bundle that a site's administrator is sent: its settings file, ready to use, and a page that says what to do with it.

It holds nothing that is secret, but for the password where sites log in to the broker with one (`site_login`): the site makes
its private keys itself, and its certificate is signed from its own request (docs/how-to/certificates.md).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fdn_worker.errors import FdnError, SettingsError
from fdn_worker.initialise import settings_text
from fdn_worker.protocol import Signer
from fdn_worker.protocol.names import check_id
from federation.settings import CentreSettings

#: Where a site keeps what it is given.
CONFIG, STATE = Path("/etc/fdn-worker"), Path("/var/lib/fdn-worker")

README = """\
# Node {node}

Everything that this site needs to join the federation, but for its private key, which is made at the site and
never leaves it{login}. Install the worker first (docs/how-to/install-a-site.md, step 1); then, in this folder:

```sh
sudo install -D -m 600 -o fdn-worker fdn-worker.toml {config}/fdn-worker.toml
sudo -u fdn-worker fdn-worker init {node}{init}
sudo -u fdn-worker fdn-worker check
```

1. The first puts the settings in their place. Edit them: `[datasets]` and `data_roots` say what tasks may read.
2. The second makes the private key and prints the public one. Send that to the centre, and say by another way (a telephone
   call) how it begins: whoever's key is entered there speaks for this site.
3. The third probes broker, store, Docker and disk, and says what to mend.

Once the centre says that the node is enrolled: `sudo systemctl enable --now fdn-worker`.
"""

TLS = f""", and the certificate that is its login at the broker. The second command makes a request for that as well: send it to
the centre, and put what comes back (ca.pem, client.pem) beside it, into {CONFIG}/tls"""
PASSWORD = ". The settings hold this site's password at the broker: keep this folder to yourself"

EMBEDDED = """\
# Node {node}

A node of an embedded federation, on the centre's own machine and without keys. In this folder, after a look at the settings:

```sh
fdn-worker check --settings fdn-worker.toml
fdn-worker start --settings fdn-worker.toml
```
"""


def write(settings: CentreSettings, node: str, *, password: str = "") -> Path:
    """Write HOME/bundles/NODE, anew if it is there; its path. A password at the broker is kept beside it for the next time."""
    check_id(node, "node")
    folder = settings.home / "bundles" / node
    trusted = settings.former_keys | ({settings.key_id: Signer.load(settings.key_id, settings.key).public_key()} if settings.key else {})
    broker = _login(site_broker(settings), node, password or _kept(folder))
    text = settings_text(
        node, broker, settings.home / "sites" / node if settings.embedded else STATE,
        private=CONFIG / f"{node}.key" if settings.key else None, trusted=trusted,
        store=settings.store_site_url or _plain(settings.store_url.get_secret_value()),
    )  # fmt: skip
    page = EMBEDDED if settings.embedded else README
    certificate = "&certfile=" in broker
    login = TLS if certificate else PASSWORD if urlsplit(broker).password else ""
    readme = page.format(node=node, config=CONFIG, login=login, init=" --tls" if certificate else "")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if password:
            _password_file(folder).touch(mode=0o600)
            _password_file(folder).write_text(password)
        (folder / "fdn-worker.toml").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(readme, encoding="utf-8")
    except OSError as error:
        raise BundleUnwritten(f"bundle {folder}: {error.strerror}", remedy="give FEM_HOME a folder that can be written") from error
    return folder


def _password_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.password")


def _kept(folder: Path) -> str:
    return _password_file(folder).read_text() if _password_file(folder).exists() else ""


def _login(broker: str, node: str, password: str) -> str:
    """The address with the node's login in it."""
    parts = urlsplit(broker)
    return urlunsplit(parts._replace(netloc=f"{node}:{password}@{parts.netloc}")) if password else broker


class BundleUnwritten(FdnError):
    """A node's bundle could not be written."""

    code = "bundle"


def site_broker(settings: CentreSettings) -> str:
    """The broker's address for sites: as it is set, or the centre's own with the certificate of the site as its login."""
    if settings.broker_site_url:
        if urlsplit(settings.broker_site_url).password:
            raise SettingsError("broker_site_url holds a password, which every site would be given", remedy="leave user and password out")
        return settings.broker_site_url
    address = settings.broker_url.get_secret_value()
    if settings.embedded:
        return address
    parts = urlsplit(address)
    login = f"cacertfile={CONFIG}/tls/ca.pem"
    if settings.site_login == "certificate":
        login += f"&certfile={CONFIG}/tls/client.pem&keyfile={CONFIG}/tls/client.key"
    where = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return urlunsplit((parts.scheme, where, parts.path or "/", login if parts.scheme == "amqps" else "", ""))


def _plain(address: str) -> str:
    """A store's address as `fdn-worker check` takes it: scheme and host alone, nothing of its login."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return address
    return f"{'http' if parts.scheme == 's3+http' else 'https'}://{parts.netloc.rpartition('@')[2]}"
