"""Part of the command line."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress

import clincus
from clincus_cli.console import print_json
from clincus_cli.console import say
from clincus_cli.context import Context
from clincus_cli.host import Host
from clincus_cli.words import Command
from clincus_cli.words import flag
from clincus_cli.words import format_flag
from clincus_cli.words import number_from

# service

SERVE_FLAGS = (
    flag("--port N", "port (default: the config's, 3000); 0 for any free one", check=number_from(0, 65535)),
    flag("--host ADDRESS", "listen here instead of on loopback only; this needs a token"),
    flag(
        "--allowed-host HOST",
        "a name that people reach it by, as of a proxy; repeatable",
        default=(),
        repeats=True,
    ),
    flag("--token-file FILE", "the token that lets in other users and machines; made if missing"),
)

SERVICE = "clincus.service"
# What decides how `clincus serve` behaves in the user's shell, and is not the same in systemd's user manager. No
# secret is among them: everybody may read a unit file, and systemd tells everybody its variables.
SERVICE_VARIABLES = (
    *(setting.variable for setting in clincus.SETTING.values() if setting.variable),
    *("CLINCUS_CONFIG", "CLINCUS_CONTAINER_PREFIX", "INCUS_CONF", "INCUS_DIR", "INCUS_SOCKET", "PATH"),
    "XDG_CONFIG_HOME",
)


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
    """What the service starts: this program with this Python, symlinks resolved, and the flags that were given."""
    command = [sys.executable, os.path.realpath(sys.argv[0]), "serve"]
    for known in SERVE_FLAGS:
        value = getattr(context.options, known.key)
        for text in value if known.repeats else () if value in {None, ""} else (value,):
            is_file = known.key.endswith("_file")
            command += [known.names[-1], os.path.abspath(text) if is_file else str(text)]
    return command


def unit_path(environ: Mapping[str, str]) -> str:
    """Where systemd's user manager looks for our unit file (systemd.unit(5), "UNIT FILE LOAD PATH")."""
    base = environ.get("XDG_CONFIG_HOME", "")
    folder = base if os.path.isabs(base) else clincus.expand("~/.config", environ)
    return os.path.join(folder, "systemd", "user", SERVICE)


def systemctl(*arguments: str) -> str:
    """Run `systemctl --user ARGUMENTS` and return its stdout. Raises ClincusError with its words."""
    try:
        done = subprocess.run(
            ["systemctl", "--user", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            env=manager_environ(os.environ, f"/run/user/{os.getuid()}"),
        )
    except FileNotFoundError:
        raise clincus.ClincusError(NO_SYSTEMD, 500) from None
    except subprocess.TimeoutExpired:
        raise clincus.ClincusError(f"`systemctl --user {arguments[0]}` did not finish within 120 s", 500) from None
    if done.returncode != 0:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        if "Failed to connect to" in words:
            raise clincus.ClincusError(no_manager(Host(), os.environ), 503)
        raise clincus.ClincusError(f"`systemctl --user {' '.join(arguments)}` failed: {words}", 500)
    return done.stdout


NO_SYSTEMD = "this machine does not run systemd: start `clincus serve` in another way"


def manager_environ(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """Variables with which systemctl finds our own user manager, whose sockets are in `folder`.

    su and sudo keep the runtime directory of whoever called them, or drop it.
    """

    def is_ours(path: str) -> bool:
        with suppress(OSError):
            return os.stat(path).st_uid == os.getuid()
        return False

    if is_ours(environ.get("XDG_RUNTIME_DIR", "")) or not is_ours(folder):
        return dict(environ)
    return {**environ, "XDG_RUNTIME_DIR": folder, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"}


def no_manager(host: Host, environ: Mapping[str, str]) -> str:
    """Why systemctl finds no user manager, and what to do."""
    if not host.has_systemd():
        return NO_SYSTEMD
    user = pwd.getpwuid(os.getuid()).pw_name
    if host.is_root() and environ.get("SUDO_USER"):
        return f"the service is one of your own: run this as '{environ['SUDO_USER']}', without sudo"
    return (
        f"systemd runs no services for '{user}' now. Log in as '{user}' (by ssh, or at the screen), or "
        f"let its services run at all times: sudo loginctl enable-linger {user}"
    )


def installed_unit(context: Context) -> str:
    """The path of our unit file. Raises ClincusError when there is none."""
    path = unit_path(context.environ)
    if not os.path.exists(path):
        raise clincus.ClincusError("the service is not installed: run `clincus service install`", 404)
    return path


def run_service_install(context: Context) -> int:
    """`clincus service install`: a step that fails leaves things as they were."""
    path = unit_path(context.environ)
    before = clincus.read_text(path, 1 << 16)
    environment = {key: context.environ[key] for key in SERVICE_VARIABLES if context.environ.get(key)}
    text = unit_text(service_command(context), environment)
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
    say(f"Installed unit file to {path}")
    say("Service enabled.")
    for hint in service_hints(context):
        say(hint)
    return 0


def service_hints(context: Context) -> list[str]:
    """What else the service needs: to be started, to outlive the login, and to reach Incus."""
    user = pwd.getpwuid(os.getuid()).pw_name
    hints = ["Start it now with: clincus service start"]
    if service_state()["ActiveState"] == "active":
        hints = ["It runs with its old settings. To use the new ones: clincus service restart"]
    if not os.path.exists(f"/var/lib/systemd/linger/{user}"):
        hints.append(f"It runs while you are logged in. To keep it running: sudo loginctl enable-linger {user}")
    if context.environ.get("CLINCUS_TOKEN"):
        hints.append("CLINCUS_TOKEN is a secret and not kept in the unit file: use --token-file.")
    group = context.config.get("incus.group")
    try:
        members, number = grp.getgrnam(group).gr_mem, grp.getgrnam(group).gr_gid
    except KeyError:
        return hints
    if os.getuid() != 0 and user not in members and number not in os.getgroups():
        hints.append(f"You are not in the group {group}: the service cannot reach Incus. Run `clincus setup`.")
    return hints


def run_service_start(context: Context) -> int:
    """`clincus service start`."""
    return service_action(context, "start", "started")


def run_service_stop(context: Context) -> int:
    """`clincus service stop`."""
    return service_action(context, "stop", "stopped")


def run_service_restart(context: Context) -> int:
    """`clincus service restart`."""
    return service_action(context, "restart", "restarted")


def service_action(context: Context, action: str, done: str) -> int:
    """Have systemd do something with the service."""
    installed_unit(context)
    try:
        systemctl(action, SERVICE)
    except clincus.ClincusError as error:
        words = service_words()
        if error.status == 503 or not words:
            raise
        raise clincus.ClincusError(
            f"the service did not start: {words.removeprefix('Error: ')}. systemd goes on trying; "
            f"`clincus service install` gives it other flags, `clincus service stop` ends it",
            500,
        ) from error
    say(f"Service {done}.")
    if action != "stop":
        say(service_state()["StatusText"])
    return 0


def service_state() -> dict[str, str]:
    """What systemd knows of the service: its states, its process and the server's own words."""
    names = ("ActiveState", "SubState", "MainPID", "UnitFileState", "StatusText")
    lines = systemctl("show", SERVICE, f"--property={','.join(names)}").splitlines()
    return {**dict.fromkeys(names, ""), **dict(line.partition("=")[::2] for line in lines)}


def service_words() -> str:
    """The last line that the server wrote, or nothing where the log cannot be read."""
    argv = ["journalctl", "--user", "--quiet", "--output=cat", "--lines=1", f"_SYSTEMD_USER_UNIT={SERVICE}"]
    return Host().attempt(argv, timeout=10).stdout.decode("utf-8", "replace").strip()


def run_service_status(context: Context) -> int:
    """`clincus service status`: exit code 0 while it runs."""
    path = installed_unit(context)
    state = service_state()
    active = state["ActiveState"] == "active"
    document = {
        "active": active,
        "enabled": state["UnitFileState"] == "enabled",
        "pid": int(state["MainPID"] or 0),
        "state": f"{state['ActiveState'] or 'unknown'} ({state['SubState'] or 'unknown'})",
        "unit": path,
        "message": state["StatusText"] if active or state["ActiveState"] == "inactive" else service_words(),
    }
    if context.options.format == "json":
        print_json(document)
    else:
        print(f"Status:   {document['state']}\nEnabled:  {'yes' if document['enabled'] else 'no'}")
        print(f"PID:      {document['pid'] or '-'}\nUnit:     {path}\nLog:      journalctl --user -u {SERVICE}")
        print(f"Message:  {document['message'] or '-'}")
    return 0 if active else 1


def run_service_remove(context: Context) -> int:
    """`clincus service remove`: stopped, disabled, and its unit file gone."""
    path = installed_unit(context)
    systemctl("disable", "--now", SERVICE)
    os.unlink(path)
    systemctl("daemon-reload")
    say("Service removed.")
    return 0


SERVICE_COMMANDS = (
    Command(
        "service install",
        run_service_install,
        "Install the dashboard as a systemd user service",
        flags=SERVE_FLAGS,
        about="Writes the unit file and enables it: the dashboard then starts with your login. Variables that say "
        "where Incus and the config are go into the unit.",
        examples=(("clincus service install --port 4000 && clincus service start", "Serve on port 4000 from now on."),),
    ),
    Command(
        "service start",
        run_service_start,
        "Start the service",
        about="And say where the dashboard is then.",
        examples=(("clincus service install && clincus service start", "Serve from now on."),),
    ),
    Command(
        "service stop",
        run_service_stop,
        "Stop the service",
        about="Sessions go on running. It starts again with your next login; `clincus service remove` ends that.",
        examples=(("clincus service stop", "Free the port for a `clincus serve` of your own."),),
    ),
    Command(
        "service restart",
        run_service_restart,
        "Restart the service",
        about="Sessions go on running, and the dashboard in the browser connects again by itself.",
        examples=(("clincus service restart", "After an update of clincus, or `clincus service install`."),),
    ),
    Command(
        "service status",
        run_service_status,
        "Show whether the service runs",
        flags=(format_flag("text", "json"),),
        about="With its process, its unit file, where its log is, and its last words.",
        examples=(("clincus service status || clincus service start", "Start it if need be."),),
        exits=(("0", "it runs"), ("1", "it does not, or is not installed")),
    ),
    Command(
        "service remove",
        run_service_remove,
        "Stop the service and take it away",
        about="Sessions and settings stay.",
        examples=(("clincus service remove", "Serve no more; `clincus serve` does so by hand."),),
    ),
)
