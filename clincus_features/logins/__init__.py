"""Logins that stay on this host: a session gets placeholders, and its proxy lends the real values.

settings.py reads the configuration, services.py has the form of a credential for each service, sources.py and vault.py
have the values. authority.py makes the certificates of a session, opened.py the connections that Clincus inspects, by
exchange.py (one connection's requests), lending.py (placeholders and values) and http1.py. None of it runs in a session
that borrows no login.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import clincus

from . import authority, loans
from .budget import Spending, Sum, reached
from .exchange import Exchange
from .lending import Loan, MisusedError, check_own, check_strangers, marks, readings
from .loans import LABEL
from .meter import Tokens
from .opened import Opened, server_trust, session_context
from .records import Records
from .renewal import Renewal
from .settings import CHOSEN, COPY, Host, Login, check_chosen, read_logins
from .sources import Secret, SourceError, read_secret
from .vault import Found, Revocations, Vault, set_revoked
from .vendors import VENDORS, Vendor, written_time

READY_WITHIN = 60.0  # seconds for certificates to be made
LOOK_PERIOD = 0.5  # seconds between two looks at the logins that another server has revoked, while connections are open
SWEPT_AFTER = 600.0  # age in seconds at which certificates without a session go: a session may come later
LOOKED_WITHIN = 60.0  # seconds for an engine to be found when a server starts
PLAIN = "in a request without TLS"
DEAREST = (15.0, 75.0, 1.5, 18.75)  # dollars for a million tokens of a model whose price nobody knows


def install(extensions: clincus.Extensions) -> None:
    """Add the parts of a start, and the part that inspects connections."""
    app = extensions.app
    lending = Lending(os.environ if app is None else app.environ, app)
    extensions.instance_parts.append(lending.describe)
    extensions.lent_variables.append(lending.variables)
    extensions.lenders.append(lending.program)
    extensions.guest_files.append(lending.files)
    extensions.listeners.append(lending.hear)
    extensions.config_listeners.append(lending.sweep)
    extensions.session_fields.append(lambda session: {"logins": sorted(loans.read_label(session.logins))})
    extensions.session_warnings.append(lending.warnings)
    extensions.network_fields.append(lending.fields)
    extensions.counters.append(lending.spending.tokens_of)
    extensions.openers.append(lending.open)
    extensions.head_checks.append(lending.check_head)
    extensions.routes += [
        ("GET", "/api/logins", lambda request: lending.documents()),
        ("POST", "/api/logins/{name}/check", lambda request: lending.check(request.values["name"])),
        ("POST", "/api/logins/{name}/revoke", lambda request: lending.revoke(request.values["name"])),
        ("DELETE", "/api/logins/{name}/revoke", lambda request: lending.allow(request.values["name"])),
    ]
    extensions.wrappers.append(clincus.with_settings(["logins"], taken_settings))
    extensions.changes.append(lending.change)
    extensions.withheld.append(lending.withheld)
    extensions.examiners.append(lending.examine)


class Lending:
    """The logins of a server, or of a command that starts a session."""

    def __init__(self, environ: Mapping[str, str], app: Any) -> None:
        self._environ = environ
        self._app = app
        self.renewal = Renewal(environ, on_renewed=self._tell_renewed)
        self.vault = Vault(environ, self._read)
        self.revocations = Revocations(environ)
        self.spending = Spending(environ)
        self._making: dict[str, Future[str]] = {}  # session that starts -> the certificate of its authority, in PEM
        self._configs: dict[str, Mapping[str, Login]] = {}  # session that starts -> the logins of its configuration
        self._config: clincus.Config | None = None
        self._known: Mapping[str, Login] = {}  # the logins of that
        self._contexts: dict[str, tuple[object, ssl.SSLContext]] = {}  # by session, with the mark of the file
        self._lock = threading.Lock()  # guards the next one
        self._is_looking = False  # a thread looks for revoked logins
        self._opened: weakref.WeakKeyDictionary[Opened, str] = weakref.WeakKeyDictionary()  # with their sessions
        self._records: dict[str, Records] = {}  # session -> the uses of its logins in this run

    @clincus.locked_property
    def store(self) -> authority.Store:
        """The folder of the certificates. Raises ClincusError."""
        return authority.Store(authority.memory_folder(os.geteuid()), self._environ)

    def _read(self, login: Login, environ: Mapping[str, str]) -> Secret:
        return self.renewal.read(login) if login.vendor else read_secret(login, environ)

    # -- A start

    def describe(
        self, incus: clincus.Incus, session: clincus.Session, launch: clincus.Launch, description: dict[str, Any]
    ) -> None:
        """Let a start borrow the logins of its configuration. Raises ClincusError."""
        config = description["config"]
        before = loans.read_label(session.logins)
        known = read_logins(launch.config)
        wanted = [known[name] for name in launch.config.get(CHOSEN)]
        config.pop(LABEL, None)  # of an earlier start
        if before:
            for name in loans.variables_of(loans.loans_of(session.logins, known)):
                config[f"environment.{name}"] = ""  # Incus drops a key without a value
        if not wanted or launch.request.command:  # a container for one command has a proxy that lends nothing
            return
        loans.check_together(wanted)
        for login in wanted:
            if login.vendor:
                self.renewal.document(login)  # nobody wants a session whose tool cannot log in
        label = config[LABEL] = loans.write_label(wanted, before)
        for name, value in loans.variables_of(loans.loans_of(label, known)).items():
            config[f"environment.{name}"] = value
        self._configs[session.id] = known
        owner = authority.Owner(session.id, self._place(incus))
        self._making[session.id] = in_thread(functools.partial(self._make, owner, label, wanted))

    def _make(self, owner: authority.Owner, label: str, logins: list[Login]) -> str:
        return self.store.make(loans.run_name(owner.id, label), hosts_of(logins), owner)

    def _prepare_next(self, session: clincus.Session) -> None:
        """Make certificates for the next session that borrows the same logins, in a thread."""
        found = loans.loans_of(session.logins, self._configs.get(session.id, {}))
        work = functools.partial(self.store.prepare, hosts_of(loan.login for loan in found))
        what = "making certificates for the next session"
        threading.Thread(target=clincus.survive, args=(what, work), name=what, daemon=True).start()

    def _place(self, incus: clincus.Incus) -> str:
        """The key of the Incus behind a door, with the folder of our own files."""
        where = [self._environ.get(name, "") for name in ("INCUS_DIR", "INCUS_SOCKET", "INCUS_CONF")]
        parts = [clincus.state_directory(self._environ), incus.remote, incus.project, *where]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def variables(self, session: clincus.Session) -> dict[str, str]:
        """The variables that a start gives its tool for the loans."""
        known = self._configs.get(session.id, {})
        return loans.variables_of(loans.loans_of(session.logins, known))

    def files(self, session: clincus.Session) -> list[clincus.ToolFile]:
        """The files with which tools use placeholders, and those of tools whose logins are lent, with placeholders."""
        found = loans.loans_of(session.logins, self._configs.get(session.id, {}))
        files: list[clincus.ToolFile] = []
        for loan in found:
            service = loan.login.service
            for path, text in service.files.items():
                content = text.replace("{variable}", service.variables[0]).replace("{placeholder}", loan.placeholder)
                files.append(clincus.ToolFile(path, content.encode(), 0o600))
        for loan in found:  # these come last: the login of a tool is before a key for it
            if loan.login.vendor:
                document = loan.login.vendor.lent(self.renewal.document(loan.login), loan.placeholder, time.time())
                files.append(clincus.ToolFile(loan.login.vendor.guest_file, json.dumps(document).encode(), 0o600))
        return files

    def program(self, session: clincus.Session, home: str, stale: Sequence[str]) -> str:
        """The program with which root lets a container trust its session's authority; it removes copies of logins.

        `stale` are their paths in `home`. The words stand in the program, since those that come after it have the
        arguments. Raises ClincusError.
        """
        root = self._making.pop(session.id).result(READY_WITHIN)
        files = [f"{home}/{path}" for path in stale]
        words = shlex.join([authority.SUBJECT_HASH, root.strip(), *files])
        return f"set -e\n(set -- {words}\n{clincus.guest_program('logins')})\n"

    def hear(self, moment: str, session: clincus.Session) -> None:
        """Get ready for the next session after a start, and forget everything about a session that is gone."""
        if moment == "after_start" and session.logins and self._app is not None:
            self._prepare_next(session)
        if moment in ("stopped", "deleted"):
            self._records.pop(session.id, None)
            self._configs.pop(session.id, None)
            self._contexts.pop(session.id, None)
        if moment in ("after_delete", "deleted") and session.logins:
            self.store.forget(loans.run_name(session.id, session.logins))

    def sweep(self) -> None:
        """Remove, in a thread, the certificates of sessions that were deleted while no server ran."""
        for engine in list(self._app.engines.values()):
            work = functools.partial(self._sweep, engine)
            what = f"removing certificates that are left {engine.name}".strip()
            threading.Thread(target=clincus.survive, args=(what, work), name=what, daemon=True).start()

    def _sweep(self, engine: clincus.Engine) -> None:
        """Raises ClincusError."""
        if not os.path.isdir(authority.place_in_memory(os.geteuid())) or not engine.looked.wait(LOOKED_WITHIN):
            return
        door = engine.incus
        for run, id in self.store.made_before(time.time() - SWEPT_AFTER, self._place(door)):
            instance = door.instance(id) if clincus.engine_of(id) == engine.name else {"config": {}}
            if instance is None or (instance["config"] and run != run_of(id, instance["config"])):
                self.store.forget(run)  # a cluster whose member is down reports no config

    def withheld(self, session: clincus.Session, launch: clincus.Launch) -> list[str]:
        """The credentials that a session gets no copy of: paths in the home, and GitHub's token."""
        if not launch.config.get(COPY):
            return [*launch.tool.credentials, clincus.GITHUB_TOKEN, clincus.CLAUDE_KEYS]
        found = loans.loans_of(session.logins, self._configs.get(session.id, {}))
        is_github = any({"GH_TOKEN", "COPILOT_GITHUB_TOKEN"} & set(loan.login.service.variables) for loan in found)
        return [*loans.files_of(found), *([clincus.GITHUB_TOKEN] if is_github else [])]

    # -- Copies

    def examine(
        self, environ: Mapping[str, str], sessions: Callable[[], Iterable[clincus.Session]]
    ) -> tuple[str, str] | None:
        """The warning of `clincus health` about sessions that can log each other out. Raises ClincusError."""
        for tool in VENDORS:
            ids = self._copies(tool, sessions)
            if len(ids) > 1:
                words = f"{len(ids)} running sessions hold copies of one login of {tool}: {', '.join(sorted(ids))}"
                return f"{words}. The first one that renews it logs the others out, and this host", copies_remedy(tool)
        return None

    def copy_warnings(self, session: clincus.Session) -> list[str]:
        """Warnings about a copy of a login in a session."""
        if self._app is None or session.tool not in VENDORS or not self._holds_copy(session):
            return []
        others = sorted(id for id in self._copies(session.tool, self._app.registry.all) if id != session.id)
        if not others:
            return []
        words = f"it holds a copy of this host's login of {session.tool}, as does {', '.join(others[:3])}"
        return [f"{words}: the first one that renews it logs the others out. {copies_remedy(session.tool)}"]

    def _copies(self, tool: str, sessions: Callable[[], Iterable[clincus.Session]]) -> list[str]:
        """The running sessions of a tool with a copy of a login that its vendor renews. Raises ClincusError."""
        if not os.path.exists(self.renewal.path(VENDORS[tool])):
            return []
        return [one.id for one in sessions() if one.tool == tool and self._holds_copy(one)]

    def _holds_copy(self, session: clincus.Session) -> bool:
        """True if a session has a copy of its tool's login, if there is one. Raises ClincusError."""
        if session.status != "running" or session.command:
            return False
        if not session.logins:
            return True
        config = self._app.config if self._app else clincus.load_config(self._environ)
        found = loans.loans_of(session.logins, read_logins(config))
        return config.get(COPY) and VENDORS[session.tool].guest_file not in loans.files_of(found)

    # -- Requests

    def change(self, session: clincus.Session, values: Mapping[str, Any]) -> None:
        """Let a session borrow other logins: a removed one stops working at once, a new one works from the next start.

        Raises ClincusError: 400 for a name that is not known.
        """
        if values["logins"] is None:
            return
        chosen = read_chosen(values["logins"])
        for name in chosen:
            self._login(name, 400)
        sessions = self._app.sessions
        with sessions.held(session.id):
            settings = {**clincus.kept_settings(sessions.registry.get(session.id)), CHOSEN: chosen}
            door = sessions.door(session.id)
            label = {f"{clincus.LABEL}settings": json.dumps(settings, sort_keys=True)}
            door.query(door.path(session.id), "PATCH", {"config": label}, wait=True)
            sessions.look(session.id)
        for opened, id in self._open_now():
            if id == session.id:
                for name in loans.read_label(session.logins).keys() - set(chosen):
                    opened.end_loan(name, f"the login {name} was taken from this session")

    def documents(self) -> list[dict[str, object]]:
        """The logins in the form of the API."""
        return [self._document(login) for login in self._logins().values()]

    def check(self, name: str) -> dict[str, object]:
        """Read a value now, and return the login in the form of the API. Raises ClincusError(404)."""
        login = self._login(name)
        self.vault.check(login)
        return self._document(login)

    def revoke(self, name: str) -> dict[str, object]:
        """Lend a login to no session from now on. Raises ClincusError(404)."""
        login = self._login(name)
        set_revoked(self._environ, name, is_revoked=True)
        self.vault.forget(name)
        for opened, _ in self._open_now():
            opened.end_loan(name, f"the login {name} is revoked")
        return self._document(login)

    def allow(self, name: str) -> dict[str, object]:
        """Lend a login again. Raises ClincusError(404)."""
        login = self._login(name)
        set_revoked(self._environ, name, is_revoked=False)
        return self._document(login)

    def _login(self, name: str, status: int = 404) -> Login:
        login = self._logins().get(name)
        if login is None:
            known = ", ".join(self._logins()) or "none"
            raise clincus.ClincusError(f"there is no login {clincus.shorten(name)}: there are {known}", status)
        return login

    def _document(self, login: Login) -> dict[str, object]:
        known = self.vault.state(login.name)
        borrowers = [one.id for one in self._app.registry.all() if login.name in loans.read_label(one.logins)]
        return {
            "name": login.name,
            "service": login.service_name,
            "hosts": list(login.service.hosts),
            "source": login.source,
            "state": "revoked" if self.revocations.holds(login.name) else known.state or "unknown",
            "error": known.error,
            "good_until": written_time(known.good_until) if known.good_until else "",
            "last_used": known.last_used,
            "today": self.spending.of_day(login.name)._asdict(),
            "limit": {name: most for name, most in login.limit._asdict().items() if most},
            "sessions": sorted(borrowers),
        }

    # -- Connections, in the proxy's thread

    def open(
        self, id: str, host: str, port: int, later: Callable[[Callable[[], None]], None]
    ) -> clincus.OpenedConnection | None:
        """The part that inspects a session's connection to a host of a login; None for another host.

        Raises ClincusError.
        """
        session = self._app.registry.find(id)
        if session is None or not session.logins:
            return None
        found = loans.loans_of(session.logins, self._logins())
        if not any(loan.login.is_for(host, port) or loan.login.gives_tokens(host, port) for loan in found):
            return None
        account = Account(self, session, host)
        exchange = Exchange((host, port), found, account, self._strangers(session))
        opened = Opened(exchange, (self._context(session), server_trust()), host, account, later)
        self._opened[opened] = session.id
        self._look_at_revocations()
        return opened

    def check_head(self, id: str, host: str, port: int, head: bytes) -> str:
        """The reason why a plain request is refused: a placeholder in its head. No login is lent without TLS."""
        session = self._app.registry.find(id)
        if session is None or not session.logins:
            return ""
        seen = readings(head.decode("latin-1"))
        try:
            check_strangers(seen, self._strangers(session), PLAIN)
            check_own(seen, loans.loans_of(session.logins, self._logins()), PLAIN)
        except MisusedError as error:
            self.alarm(session, error.loan, error.where, f"{host}:{port}")
            return str(error)
        return ""

    def _look_at_revocations(self) -> None:
        """While connections are open, look in a thread for logins that other servers of this user have revoked."""
        with self._lock:
            if self._is_looking:
                return
            self._is_looking = True
        threading.Thread(target=self._end_revoked, name="looking at revoked logins", daemon=True).start()

    def _end_revoked_now(self) -> None:
        for opened, _ in self._open_now():
            for name in filter(self.revocations.holds, opened.names):
                opened.end_loan(name, f"the login {name} is revoked")

    def _end_revoked(self) -> None:
        while True:
            self._end_revoked_now()
            time.sleep(LOOK_PERIOD)
            with self._lock:
                if not self._opened:
                    self._is_looking = False
                    return

    def _open_now(self) -> list[tuple[Opened, str]]:
        """The connections that are open, with their sessions. For any thread, while the proxy's adds others."""
        found = [ref() for ref in self._opened.keyrefs()]  # a list of all at once
        return [(one, self._opened[one]) for one in found if one is not None]

    def _strangers(self, session: clincus.Session) -> dict[bytes, Loan]:
        """The placeholders of other sessions."""
        found: list[Loan] = []
        for other in self._app.registry.all():
            if other.id != session.id and other.logins:
                found += loans.loans_of(other.logins, self._logins())
        return marks(found)

    def obstacle(self, session: clincus.Session, login: Login) -> str:
        """The reason why a session may not use a login now; empty if it may."""
        if self.revocations.holds(login.name):
            return f"it is revoked (clincus login allow {login.name})"
        now = self._app.registry.find(session.id) or session
        if login.name not in clincus.kept_settings(now).get(CHOSEN, [login.name]):
            return "it was taken from this session"
        if not any(login.limit):
            return ""
        day = self.spending.of_day(login.name)
        mine = self.spending.of_session(login.name, session.session_id)
        return reached(login.name, login.limit, day, mine)

    def count(self, session: clincus.Session, loan: Loan, model: str, more: Tokens) -> None:
        """Count the tokens that a model's answer reports."""
        found = clincus.call_each(self._app.extensions.pricers, model, tuple(more))
        dollars = next((one for one in found if one is not None), None)
        if dollars is None:
            dollars = sum(count * rate for count, rate in zip(more, DEAREST)) / 10**6
        self.spending.add(loan.login.name, session.session_id, Sum(0, sum(more), dollars))
        self.spending.add_tokens(session.session_id, model, more)

    def _logins(self) -> Mapping[str, Login]:
        config = self._app.config
        if config is not self._config:  # it never changes: another one takes its place
            self._config = config
            self._known = read_logins(config)
        return self._known

    def _context(self, session: clincus.Session) -> ssl.SSLContext:
        """The certificates that programs of a session see. Each start, in any process of this user, makes new ones."""
        path = self.store.path(loans.run_name(session.id, session.logins))
        mark = clincus.config_fingerprint([path])
        known = self._contexts.get(session.id)
        if known and known[0] == mark:
            return known[1]
        try:
            context = session_context(path)
        except OSError as error:
            words = "its certificates are gone, as after a restart of this machine: stop and resume the session"
            raise clincus.ClincusError(words, 409) from error
        self._contexts[session.id] = (mark, context)
        return context

    # -- The records of sessions

    def records(self, id: str) -> Records:
        """The records of a session in this run."""
        return self._records.setdefault(id, Records())

    def warnings(self, session: clincus.Session) -> list[str]:
        """Warnings about a session."""
        found = self._records.get(session.id)
        if not found or not found.alarms:
            return self.copy_warnings(session)
        one = found.alarms[-1]
        others = f" ({len(found.alarms)} such places in all)" if len(found.alarms) > 1 else ""
        words = "The secret was not sent, but the agent, or a program of its, tried"
        return [f"the placeholder of the login {one['login']} was {one['where']}, to {one['host']}{others}. {words}"]

    def fields(self, session: clincus.Session) -> dict[str, object]:
        """The fields of GET …/network."""
        return self.records(session.id).documents() if session.logins else {"lent": [], "alarms": []}

    def lent(self, session: clincus.Session, loan: Loan, host: str) -> None:
        """A value was sent."""
        self.vault.used(loan.login)
        self.spending.add(loan.login.name, session.session_id, Sum(1))
        if self.records(session.id).count(loan.login.name, host):
            self._happened(session, f"The session uses the login {loan.login.name} (at {host})")

    def refused(self, session: clincus.Session, loan: Loan, host: str, reason: str) -> None:
        """A request got no value. The journal has each reason once in a run."""
        if self.records(session.id).refuse(loan.login.name, host, reason):
            self._happened(session, f"The session does not get the login {loan.login.name}: {reason}")

    def _tell_renewed(self, vendor: Vendor, good_until: float) -> None:
        """Write into the journals of the sessions that borrow a login that it was renewed."""
        for session in self._app.registry.all() if self._app else ():
            found = loans.loans_of(session.logins, self._logins()) if session.status == "running" else ()
            for loan in found:
                if loan.login.vendor == vendor:
                    until = written_time(good_until)
                    self._happened(session, f"The login {loan.login.name} was renewed on this host: good until {until}")

    def alarm(self, session: clincus.Session, loan: Loan, where: str, host: str) -> None:
        """Report that a placeholder was out of place; each place once in a run."""
        name = loan.login.name
        place = clincus.printable(where[:120])
        if self.records(session.id).alarm(name, place, host):
            words = f"the placeholder of the login {name} was {place}, to {host}"
            clincus.log.warning("%s: %s", session.id, words)
            self._happened(session, f"Alarm: {words}")
            event = {"type": "session.alarm", "id": session.id, "text": words}
            self._app.hub.publish(event, extension=True)
            self._app.hub.publish({"type": "session.changed", "id": session.id}, extension=True)

    def _happened(self, session: clincus.Session, words: str) -> None:
        clincus.call_each(self._app.extensions.happenings, session, words)


class Account:
    """Notes in the records how the requests of one connection use logins."""

    def __init__(self, lending: Lending, session: clincus.Session, host: str) -> None:
        self._lending = lending
        self._session = session
        self._host = host

    def ask(self, loan: Loan, take: Callable[[Found], None]) -> None:
        """Let `take` have the value of a loan, unless the session may not use it."""

        def note(found: Found) -> None:
            if isinstance(found, SourceError):
                self._lending.refused(self._session, loan, self._host, found.message)
            take(found)

        obstacle = self._lending.obstacle(self._session, loan.login)
        if obstacle:
            note(SourceError(obstacle))
        else:
            self._lending.vault.ask(loan.login, note)

    def misused(self, loan: Loan, where: str) -> None:
        """A placeholder is out of its place."""
        self._lending.alarm(self._session, loan, where, self._host)

    def lent(self, loan: Loan) -> None:
        """A value was sent."""
        self._lending.lent(self._session, loan, self._host)

    def refused(self, loan: Loan, reason: str) -> None:
        """A request gets no value because of what it asks for."""
        self._lending.refused(self._session, loan, self._host, f"it {reason}")

    def counted(self, loan: Loan, model: str, more: Tokens) -> None:
        """Count the tokens that a model's answer reports."""
        self._lending.records(self._session.id).add_tokens(loan.login.name, self._host, sum(more))
        self._lending.count(self._session, loan, model, more)

    def rejected(self, loan: Loan, secret: Secret, status: int) -> None:
        """A server rejected a value."""
        if loan.login.vendor and status == 401:
            self._lending.renewal.refuse(loan.login, secret)
        self._lending.vault.forget(loan.login.name)


def taken_settings(values: Mapping[str, Any]) -> dict[str, object]:
    """The names of a request, as a setting. Raises ClincusError(400)."""
    return {} if values["logins"] is None else {CHOSEN: read_chosen(values["logins"])}


def read_chosen(names: object) -> list[str]:
    """The names of a request. Raises ClincusError(400)."""
    try:
        return check_chosen(names)
    except ValueError as error:
        raise clincus.ClincusError(f'"logins": {error}', 400) from None


def run_of(id: str, config: Mapping[str, str]) -> str:
    """The name of a session's certificates, from the config of its instance."""
    return loans.run_name(id, config.get(LABEL, ""))


def copies_remedy(tool: str) -> str:
    """The remedy for copies that log each other out."""
    return f"Lend it instead: `lend = true` in [logins.{tool}], and the name in {CHOSEN}"


def hosts_of(logins: Iterable[Login]) -> list[Host]:
    """The hosts to which a session with these logins has its connections opened."""
    hosts: list[Host] = []
    for login in logins:
        hosts += (*login.hosts, *login.token_hosts)
    return hosts


def in_thread(work: Callable[[], str]) -> Future[str]:
    """The result of a function that runs in a thread of its own."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="making certificates", daemon=True).start()
    return future
