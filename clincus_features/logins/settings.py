"""`[logins.NAME]` of the configuration: the hosts of a credential, its place in a request, and its source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import clincus

from .services import SECRET, SERVICES, Service
from .vendors import VENDORS, Vendor

NAME = r"[a-z0-9][a-z0-9-]{0,31}"
KEEP = "1m"  # how long a value is kept by default
KEPT_LENT = 10.0  # the same in seconds, for a value that its tool may renew at any time
ONLY_LENT = ("codex",)  # services whose value exists only in the tool's file
MOST_KEPT = 3600.0  # seconds
HTTPS = 443
CHOSEN = "defaults.logins"
COPY = "logins.copy"
NO_LOGIN = "none"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?((?=.{{1,253}}(?::|$)){_LABEL}(?:\.{_LABEL})+)(?::([0-9]{{1,5}}))?")
_TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}"
# These belong to the connection or to the message, so that a secret in one of them would change what is sent.
RESERVED_HEADERS = frozenset(
    (
        *("connection", "content-length", "content-type", "content-encoding", "expect", "host", "keep-alive", "te"),
        *("trailer", "transfer-encoding", "upgrade", "accept-encoding", "range", "if-range", "proxy-authorization"),
        *("proxy-connection", "sec-websocket-key", "sec-websocket-extensions", "sec-websocket-version"),
    )
)


class Host(NamedTuple):
    """A host that a login is for."""

    name: str
    is_wild: bool = False  # all names with one more label, and not itself
    port: int = HTTPS

    @classmethod
    def read(cls, text: str) -> Host:
        """Read `api.example.com`, `*.example.com` or `api.example.com:8443`. Raises ValueError with words."""
        match = _HOST.fullmatch(text)
        if not match:
            raise ValueError(f"{clincus.shorten(text)} is no host: write api.example.com, *.example.com or host:8443")
        name = match[2]
        port = int(match[3] or HTTPS)
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]):
            raise ValueError(f"{clincus.shorten(text)} is an address: write the name of the host")
        if not 1 <= port <= 65535:
            raise ValueError(f"{clincus.shorten(text)}: a port is from 1 to 65535")
        return cls(name, bool(match[1]), port)

    def fits(self, host: str, port: int) -> bool:
        """True if it is the host of a connection. `host` is in lower case and has no dot at its end."""
        if port != self.port:
            return False
        if not self.is_wild:
            return host == self.name
        first, _, rest = host.partition(".")
        return bool(first) and rest == self.name

    @property
    def pattern(self) -> str:
        """The name in the form of a certificate."""
        return f"*.{self.name}" if self.is_wild else self.name


class Limit(NamedTuple):
    """The limits on the use of a login; 0 for no limit."""

    requests_per_day: int = 0
    requests_per_session: int = 0
    tokens_per_day: int = 0
    tokens_per_session: int = 0
    usd_per_day: float = 0.0
    usd_per_session: float = 0.0


class Login(NamedTuple):
    """A login of the configuration, with the facts of the table of services."""

    name: str
    service: Service
    service_name: str  # "" for a service of one's own
    hosts: tuple[Host, ...]
    source: str  # "file", "env", "command" or "vendor"
    place: Any  # a path, the name of a variable, the words of a command, or nothing
    keep: float  # seconds that the value may be kept in memory
    vendor: Vendor | None = None  # for a login that is renewed
    limit: Limit = Limit()

    def is_for(self, host: str, port: int) -> bool:
        """True if its value may go into a request to a host."""
        return any(one.fits(host, port) for one in self.hosts)

    def gives_tokens(self, host: str, port: int) -> bool:
        """True if programs ask a host for new tokens. Clincus answers these requests itself."""
        return any(one.fits(host, port) for one in self.token_hosts)

    @property
    def token_hosts(self) -> tuple[Host, ...]:
        """The hosts whose connections are opened although no value is sent there."""
        return tuple(map(Host, self.vendor.token_hosts)) if self.vendor else ()

    def __repr__(self) -> str:
        return f"<login {self.name}>"  # a command may hold something that nobody should read in a log


# -- Checks: each returns the value in its normal form, or raises Unfit


def check_host(value: object) -> str:
    """A host of a login."""
    text = clincus.check_text(value).strip().lower()
    try:
        Host.read(text)
    except ValueError as error:
        raise clincus.Unfit(str(error)) from None
    return text


def check_header(value: object) -> str:
    """The name of a header, in lower case."""
    text = clincus.check_text(value).lower()
    if not re.fullmatch(_TOKEN, text):
        raise clincus.Unfit('write the name of a header, such as "authorization"')
    if text in RESERVED_HEADERS:
        raise clincus.Unfit(f"{text} says how the request is sent: it cannot carry a secret")
    return text


def check_form(value: object) -> str:
    """The value of a header, with `{secret}` once."""
    text = clincus.check_text(value)
    if text.count(SECRET) != 1 or not text.isascii() or text.strip() != text:
        raise clincus.Unfit('write the value of the header, with {secret} once: "Bearer {secret}"')
    if text.lower().startswith("basic ") and not re.fullmatch(r"Basic [^: ]+:\{secret\}", text):
        raise clincus.Unfit('write "Basic USER:{secret}", with * for any user: Clincus encodes it')
    return text


def check_dollars(value: object) -> float:
    """A number of dollars."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10**6:
        raise clincus.Unfit("write dollars, such as 5.0; 0 for no limit")
    return float(value)


def check_keep(value: object) -> str:
    """A duration of an hour at most."""
    text = clincus.check_duration(value)
    if clincus.parse_duration(text) > MOST_KEPT:
        raise clincus.Unfit("a value is kept for an hour at most: write 1h or less")
    return text


LOGIN_NAME = clincus.matching(
    rf"(?!{NO_LOGIN}$){NAME}", f"a name has small letters, digits and -, and is not {NO_LOGIN}"
)


def check_chosen(value: object) -> list[str]:
    """The names of logins that a session borrows; the word `none` alone for no login."""
    if value == [NO_LOGIN]:
        return []
    names: list[str] = clincus.list_of(LOGIN_NAME)(value)
    return list(dict.fromkeys(names))


VARIABLE = clincus.matching(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "write the name of a variable")
LOGIN = {
    "service": clincus.Setting(
        "service", "", clincus.matching("|".join(SERVICES), f"there are {', '.join(SERVICES)}; leave it out for others")
    ),
    "hosts": clincus.Setting("hosts", [], clincus.list_of(check_host)),
    "header": clincus.Setting("header", "", check_header),
    "form": clincus.Setting("form", "", check_form),
    "variable": clincus.Setting("variable", "", VARIABLE),
    "from.file": clincus.Setting("from.file", "", clincus.HOST_PATH),
    "from.env": clincus.Setting("from.env", "", VARIABLE),
    # A person may write the secret itself into the command, so the API never shows it.
    "from.command": clincus.Setting("from.command", [], clincus.check_command, secret=True),
    "keep": clincus.Setting("keep", KEEP, check_keep),
    "lend": clincus.Setting("lend", False, clincus.check_switch),
    **{
        key: clincus.Setting(key, 0, check_dollars if "usd" in key else clincus.whole(0, 10**12))
        for key in (f"limit.{name}" for name in Limit._fields)
    },
}
clincus.register_settings(
    clincus.Setting("logins", {}, LOGIN_NAME, merge=clincus.merged, rows=LOGIN),
    clincus.Setting("defaults.logins", [], check_chosen),
    clincus.Setting(COPY, False, clincus.check_switch),
)
clincus.PROFILE["logins"] = clincus.SETTING[CHOSEN]


# -- Reading


def read_logins(config: clincus.Config) -> dict[str, Login]:
    """The logins of a configuration by name. Raises ConfigError for an incomplete one."""
    rows = {name: row for name, row in config.get("logins").items() if f"logins.{name}" not in clincus.SETTING}
    return {name: read_login(name, row) for name, row in rows.items()}


def read_login(name: str, row: Mapping[str, Any]) -> Login:
    """One login. Raises ConfigError with advice."""
    place = f"[logins.{name}]"
    known = row.get("service") or (name if name in SERVICES else "")
    own = [key for key in ("hosts", "header", "form") if row.get(key)]
    if known:
        if own:
            words = f"leave {' and '.join(own)} out: those of the service {known} are known. Or choose another name"
            raise clincus.ConfigError(f"{place}: {words}")
        service = SERVICES[known]
    else:
        missing = [key for key in ("hosts", "header", "form") if key not in own]
        if missing:
            services = ", ".join(SERVICES)
            words = f"add {', '.join(missing)}, or a `service` ({services})"
            raise clincus.ConfigError(f"{place}: {words}")
        service = Service(name, tuple(row["hosts"]), row["header"], (row["form"],))
    limit = Limit(**{field: row[f"limit.{field}"] for field in Limit._fields if f"limit.{field}" in row})
    if row.get("lend"):
        return read_lent(name, known, row)._replace(limit=limit)
    if known in ONLY_LENT:
        raise clincus.ConfigError(f"{place}: add lend = true, which says that the login of {known} here is lent")
    if row.get("variable"):
        service = service._replace(variables=(row["variable"],))
    sources = [key for key in ("file", "env", "command") if row.get(f"from.{key}")]
    if len(sources) != 1:
        words = 'write where it is read: from = { file = "PATH" }, { env = "NAME" } or { command = "pass show NAME" }'
        raise clincus.ConfigError(f"{place}: {words}" + (", and one of them only" if sources else ""))
    hosts = tuple(Host.read(text) for text in service.hosts)
    keep = clincus.parse_duration(row.get("keep", KEEP))
    return Login(name, service, known, hosts, sources[0], row[f"from.{sources[0]}"], keep, None, limit)


def read_lent(name: str, known: str, row: Mapping[str, Any]) -> Login:
    """A login that its vendor renews, and that stays in its tool's file. Raises ConfigError with advice."""
    place = f"[logins.{name}]"
    if known not in VENDORS:
        words = "lend = true is for the logins that their vendors renew"
        raise clincus.ConfigError(f"{place}: {words}, those of the services {' and '.join(VENDORS)}")
    more = [key for key in row if key in ("variable", "keep") or key.startswith("from.")]
    if more:
        words = f"leave {' and '.join(more)} out: with lend = true it is read where its tool keeps it"
        raise clincus.ConfigError(f"{place}: {words}")
    service = SERVICES[known]._replace(variables=())
    hosts = tuple(Host.read(text) for text in service.hosts)
    return Login(name, service, known, hosts, "vendor", None, KEPT_LENT, VENDORS[known])


def check_logins(config: clincus.Config) -> None:
    """Raise ConfigError for logins that are not complete, unknown, or a project's own."""
    logins = read_logins(config)
    unknown = [name for name in config.get(CHOSEN) if name not in logins]
    if unknown:
        words = f"{CHOSEN} names {', '.join(unknown)}, but there is no [logins.{unknown[0]}]"
        raise clincus.ConfigError(f"{config.origins[CHOSEN]}: {words}; there are {', '.join(logins) or 'none'}")
    chosen: list[str] = []  # by the user's own files
    for layer in sorted(config.layers, key=lambda layer: layer.rank):
        if layer.rank < clincus.PROJECT_RANK:
            chosen = layer.values.get("defaults.logins", chosen)
        elif layer.rank == clincus.PROJECT_RANK:
            check_project(layer, chosen)


def check_project(layer: clincus.Layer, chosen: list[str]) -> None:
    """Raise ConfigError if a project's own file defines a login, or borrows a login that the user has not chosen."""
    if layer.values.get("logins") or COPY in layer.values:
        raise clincus.ConfigError(f"{layer.source}: [logins] can be in your own config only: move it there")
    more = [name for name in layer.values.get("defaults.logins", ()) if name not in chosen]
    if more:
        words = f"{', '.join(more)} is not among those of your own config: add it there, or leave it out here"
        raise clincus.ConfigError(f"{layer.source}: defaults.logins: {words}")


clincus.CONFIG_CHECKS.append(check_logins)
