"""`serve` and `service`: the dashboard, by hand or as a systemd user service."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import clincus
from clincus_cli import commands as cli
from clincus_cli import console, entry, load_when_used
from clincus_cli.context import Context

SERVICE = "clincus.service"
# Python's own modules import these for rare purposes. They take 1.6 MB, and 10 ms of the start.
SELDOM_USED = ("bz2", "html", "lzma", "ssl")


SERVE_FLAGS = (
    cli.Flag("--port N", "port (default: the config's, 3000); 0 for any free one", check=cli.number_from(0, 65535)),
    cli.Flag("--host ADDRESS", "also listen here, for other machines; this needs a token"),
    cli.Flag("--allowed-host HOST", "a host name that leads here, such as a proxy's; repeatable", repeats=True),
    cli.Flag("--token-file FILE", "file with the token for other users and machines; made if missing"),
    cli.Flag("--open", "open the dashboard in a browser"),
    cli.Flag(
        "--log-format FORMAT",
        "form of the log: text, or json with an object on each line",
        choices=("text", "json"),
        default="text",
    ),
)


@cli.Command("serve", *SERVE_FLAGS, config=False)
def run_serve(context: Context) -> int:
    """Serve the dashboard and its API

    Serves only this machine, and there only you and root, until Ctrl-C or SIGTERM; a second one ends it at once.
    Everyone else needs the token of --token-file or CLINCUS_TOKEN. The link that it prints on a terminal holds the
    token.

    $ clincus serve --open  # Serve, and show the dashboard in the browser.

    Exits: 0 ended by Ctrl-C or SIGTERM; 1 could not start, such as a port that is taken; 130 ended at once by a
    second Ctrl-C
    """
    load_when_used(*SELDOM_USED)
    caller = context.environ.get("SUDO_USER", "")
    if os.geteuid() == 0 and caller not in ("", "root"):
        console.warn(f"under sudo this server is root's, and refuses {caller}'s browser: run it without sudo")
    options = context.options
    if options.log_format == "json":
        from clincus_features.journal import JsonFormatter

        clincus.log.handlers[0].setFormatter(JsonFormatter())
    gate = clincus.Gate(options.allowed_host)
    token = entry.load_token(options.token_file, context.environ)
    if token:
        from clincus_features.sign_in import TokenGate

        gate = TokenGate(options.allowed_host, token=token)
    hosts = entry.listen_hosts(options.host, gate)
    announcer = Announcer(opens=options.open, is_everywhere=hosts[0] in ("0.0.0.0", "::"))
    return clincus.serve(options.port, hosts=hosts, gate=gate, on_address=announcer)


class Announcer:
    """Tells systemd where the dashboard runs, and once a browser too if so wanted."""

    def __init__(self, *, opens: bool = False, is_everywhere: bool = False) -> None:
        self._opens = opens
        self._is_everywhere = is_everywhere  # it listens at all addresses of this machine
        self._is_ready = False

    def __call__(self, url: str) -> None:
        """Report that the dashboard runs at a URL from now on."""
        ready = "" if self._is_ready else "READY=1\n"
        tell_systemd(f"{ready}STATUS=Dashboard running at {url}")
        if self._opens and not self._is_ready:
            # Without the token: every user of this machine can read the browser's arguments. On loopback the page
            # needs none; elsewhere it asks for it.
            open_browser(url, os.environ)
        outward = outward_address() if self._is_everywhere else ""
        if outward:
            console.say(f"Other machines reach it at http://{outward}:{url.rpartition(':')[2]}")
        self._is_ready = True


def outward_address() -> str:
    """Our IPv4 address in the network that leads outward, "" without one. Nothing is sent for it."""
    import socket

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address that is nobody's (RFC 5737): a route is looked up
        return str(probe.getsockname()[0])
    return ""


def open_browser(url: str, environ: Mapping[str, str]) -> None:
    """Show an address in the browser of a person's desktop; print it if there is none.

    Python's webbrowser would start w3m or lynx at a terminal without a desktop, and wait for its end.
    """
    import subprocess
    import threading

    command = browser_command(url, environ)
    if not command:
        console.warn(f"there is no desktop to open a browser on: open {url} yourself")
        return
    none = subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            command, stdin=none, stdout=none, stderr=none, start_new_session=True, env=dict(environ)
        )
    except OSError as error:
        console.warn(f"no browser could be opened ({command[0]}: {error.strerror}): open {url} yourself")
        return
    threading.Thread(target=child.wait, daemon=True).start()  # some are the browser itself, and run for hours


def browser_command(url: str, environ: Mapping[str, str]) -> list[str]:
    """The command that opens an address: that of $BROWSER, as an editor sets it over ssh, else the desktop's.

    Empty if there is neither.
    """
    import shlex

    words = shlex.split(environ.get("BROWSER", "").partition(":")[0])
    if words:
        has_place = any("%s" in word for word in words)
        return [word.replace("%s", url) for word in words] if has_place else [*words, url]
    has_desktop = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    return ["xdg-open", url] if has_desktop else []


def tell_systemd(state: str) -> None:
    """Report our state to systemd, if it started us and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        import socket

        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address.replace("@", "\0", 1))  # @ is for the abstract namespace


# -- The unit file


def unit_word(word: str) -> str:
    """A word of a unit file's command line or assignment (systemd.service(5), "COMMAND LINES")."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{quoted}"'


def unit_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit file of the dashboard."""
    # A $ stands for a variable in a command line only, not in an assignment (systemd.exec(5), "Environment=").
    line = " ".join(unit_word(word).replace("$", "$$") for word in command)
    variables = "".join(f"Environment={unit_word(f'{key}={value}')}\n" for key, value in sorted(environment.items()))
    return f"""[Unit]
Description=Clincus dashboard

[Service]
Type=notify
ExecStart={line}
{variables}Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


def service_command(context: Context) -> list[str]:
    """The command that the service runs: this program with this Python, symlinks resolved, and the given flags."""
    command = [sys.executable, os.path.realpath(sys.argv[0]), "serve"]
    for known in SERVE_FLAGS:
        value = getattr(context.options, known.key)
        if known.repeats:
            texts = list(value)
        else:
            is_given = known.value and value not in (None, "", known.default)
            texts = [value] if is_given else []
        is_file = known.key.endswith("_file")
        for text in texts:
            command += [known.names[-1], os.path.abspath(text) if is_file else str(text)]
    return command


def service_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that change what `serve` does: systemd's user manager does not have those of the user's shell.

    No secret is among them: everybody may read a unit file, and systemd tells everybody its variables.
    """
    names = [setting.variable for setting in clincus.SETTING.values() if setting.variable]
    names += ["CLINCUS_CONFIG", "CLINCUS_CONTAINER_PREFIX", "INCUS_CONF", "INCUS_DIR", "INCUS_SOCKET", "PATH"]
    return {name: environ[name] for name in [*names, "XDG_CONFIG_HOME"] if environ.get(name)}


def unit_path(environ: Mapping[str, str]) -> str:
    """The path at which systemd's user manager looks for our unit file (systemd.unit(5), "UNIT FILE LOAD PATH")."""
    base = environ.get("XDG_CONFIG_HOME", "")
    folder = base if os.path.isabs(base) else clincus.expand("~/.config", environ)
    return os.path.join(folder, "systemd", "user", SERVICE)


def installed_unit(context: Context) -> str:
    """The path of our unit file. Raises ClincusError if it does not exist."""
    path = unit_path(context.environ)
    if not os.path.exists(path):
        raise clincus.ClincusError("the service is not installed: run `clincus service install`", 404)
    return path


# -- systemd


def systemctl(*arguments: str) -> str:
    """Run `systemctl --user ARGUMENTS` and return its stdout. Raises ClincusError with its words."""
    # Our own user manager listens here. su and sudo keep the variables of the user who called them, or drop them.
    folder = f"/run/user/{os.getuid()}"
    manager = {"XDG_RUNTIME_DIR": folder, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"}
    try:
        done = clincus.run_child(["systemctl", "--user", *arguments], timeout=120, environ={**os.environ, **manager})
    except clincus.ChildError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        words = "this machine does not run systemd: start `clincus serve` in another way"
        raise clincus.ClincusError(words, 500) from None
    if done.code != 0:
        advice = f". Run this as yourself, without sudo, while you are logged in or after {lingering()}"
        reason = done.reason + (advice if "Failed to connect to" in done.reason else "")
        raise clincus.ClincusError(f"`systemctl --user {' '.join(arguments)}` failed: {reason}", 500)
    return done.stdout.decode("utf-8", "replace")


def user_name() -> str:
    """Our own name, or our number if there is no name."""
    from clincus_features.health import Machine

    return Machine().user_name() or str(os.getuid())


def lingering() -> str:
    """The command that lets our services run at all times."""
    return f"sudo loginctl enable-linger {user_name()}"


def service_state() -> dict[str, str]:
    """The facts that systemd has of the service: its states, its process and the server's own words."""
    names = ("ActiveState", "SubState", "MainPID", "UnitFileState", "StatusText")
    lines = systemctl("show", SERVICE, f"--property={','.join(names)}").splitlines()
    return {**dict.fromkeys(names, ""), **dict(line.partition("=")[::2] for line in lines)}


# -- The commands


@cli.Command("service install", *SERVE_FLAGS, cli.RESULT_JSON, config=False)
def run_service_install(context: Context) -> int:
    """Install the dashboard as a systemd user service

    Writes the unit file and enables it: the dashboard then starts with your login. The unit keeps the variables that
    locate Incus and the config.

    $ clincus service install --port 4000 && clincus service restart  # Serve on port 4000 from now on.
    """
    path = unit_path(context.environ)
    before = clincus.read_text(path, 1 << 16)
    text = unit_text(service_command(context), service_variables(context.environ))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    clincus.replace_file(path, text.encode(), 0o644)
    try:
        systemctl("daemon-reload")
        # By its path: the user manager need not have our XDG_CONFIG_HOME.
        systemctl("enable", path)
    except BaseException:
        if before is None:
            os.unlink(path)
        else:
            clincus.replace_file(path, before.encode(), 0o644)
        with suppress(clincus.ClincusError):
            systemctl("daemon-reload")
        raise
    console.say(f"Installed unit file to {path}\nService enabled.")
    console.say("Start it with these settings now: clincus service restart")
    if not os.path.exists(f"/var/lib/systemd/linger/{user_name()}"):
        console.say(f"It runs while you are logged in. To keep it running: {lingering()}")
    if context.environ.get("CLINCUS_TOKEN"):
        console.say("CLINCUS_TOKEN is a secret and not kept in the unit file: use --token-file.")
    return context.show({"unit": path, "result": "installed"}, [])


@cli.Command("service start", cli.RESULT_JSON, config=False)
def run_service_start(context: Context) -> int:
    """Start the service, and print the dashboard's address

    $ clincus service install && clincus service start  # Serve from now on.
    """
    return service_action(context, "started")


@cli.Command("service stop", cli.RESULT_JSON, config=False)
def run_service_stop(context: Context) -> int:
    """Stop the service

    Sessions keep running. The service starts again with your next login; `clincus service remove` prevents that.

    $ clincus service stop  # Free the port for a `clincus serve` of your own.
    """
    return service_action(context, "stopped")


@cli.Command("service restart", cli.RESULT_JSON, config=False)
def run_service_restart(context: Context) -> int:
    """Restart the service, or start it

    Sessions keep running, and the dashboard in the browser connects again by itself.

    $ clincus service restart  # After an update of clincus, or `clincus service install`.
    """
    return service_action(context, "restarted")


def service_action(context: Context, done: str) -> int:
    """Let systemd do what the command is called; `done` is reported for the service afterwards."""
    installed_unit(context)
    systemctl(context.command.name.rpartition(" ")[2], SERVICE)
    message = "" if done == "stopped" else service_state()["StatusText"]
    words = f"Service {done}." + (f"\n{message}" if message else "")
    return context.report(words, {"result": done, "message": message})


@cli.Command("service status", cli.format_flag("text", "json"), config=False)
def run_service_status(context: Context) -> int:
    """Show whether the service runs

    Also shows its process, its unit file, where its log is, and the server's answer.

    $ clincus service status || clincus service start  # Start it if need be.

    Exits: 0 it runs; 1 it does not, or is not installed
    """
    path = installed_unit(context)
    state = service_state()
    document = {
        "active": state["ActiveState"] == "active",
        "enabled": state["UnitFileState"] == "enabled",
        "pid": int(state["MainPID"] or 0),
        "state": f"{state['ActiveState'] or 'unknown'} ({state['SubState'] or 'unknown'})",
        "unit": path,
        "message": state["StatusText"],
    }
    rows = {
        "Status": document["state"],
        "Enabled": "yes" if document["enabled"] else "no",
        "PID": document["pid"] or "-",
        "Unit": path,
        "Log": f"journalctl --user -u {SERVICE}",
        "Message": document["message"] or "-",
    }
    context.show(document, [console.facts(rows.items())])
    return 0 if document["active"] else 1


@cli.Command("service remove", cli.RESULT_JSON, config=False)
def run_service_remove(context: Context) -> int:
    """Stop the service and remove it

    Sessions and settings stay.

    $ clincus service remove  # Stop serving; `clincus serve` still starts it by hand.
    """
    path = installed_unit(context)
    systemctl("disable", "--now", SERVICE)
    os.unlink(path)
    systemctl("daemon-reload")
    return context.report("Service removed.", {"unit": path, "result": "removed"})
