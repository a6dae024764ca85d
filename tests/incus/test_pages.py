"""Each command of README and docs/ is typed on a machine of its own, and prints what the page shows.

The machine has systemd, an Incus of its own, and a person `ada` who may use sudo. Each page begins in a new login, in
her home, with the project `~/projects/my-app`. The two pages that install Clincus come first and find nothing of it but
the program; it is installed where the others begin, whether or not the two have run. tests/pages.py lists the commands
that cannot run there. What happens beside the commands, such as an agent's work, is in MEANWHILE.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import struct
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from machine_box import Machine, archive, systemd_image
from terminal_box import Terminal

from tests import pages
from tests.incus_bed import CLAUDE_RESTS, CLAUDE_WORKS
from tests.programs import DEADLINE, wait_until

PROJECT = "/home/ada/projects/my-app"
SESSION = "clincus-706096-1"  # of that project; a page may also call it NAME
API = "http://127.0.0.1:3000/api"
SERVE_PAGE = "mkdir -p /tmp/page && cd /tmp/page && echo hello >index.html && busybox httpd -p 127.0.0.1:5173"
CLAUDE_ASKS = [
    "Which colour do you want?",
    "❯ 1. Red",
    "  2. Green",
    "",
    "Enter to select · ↑/↓ to navigate · Esc to cancel",
]
# A shell that says when a command has ended, without an echo of what is typed.
READER = """
. ~/.profile
export NO_COLOR=1 LANG=C.UTF-8
curl() { command curl --silent --show-error --fail-with-body "$@"; }
stty -echo
PS2= PS1='<<done:$?>>'
"""
CLEAR_LINE = "\x15"  # takes keys away that have come too late for the last command
LOST = 5.0  # seconds after which a key counts as lost
CODEX = "#!/bin/sh\necho STUB-READY codex; exec sleep 600"
EVENT = re.compile(r"<<done:(\d+)>>|\[y/N\]:? $|Token: $|STUB-READY \w+")
MAKE_PROJECT = f"""
mkdir -p {PROJECT}/src && cd {PROJECT}
printf '# My app\\n' >README.md; seq 20 >src/app.js; printf '\\211PNG\\r\\n\\032\\n' >shot.png
git init -q -b main && git add . && git commit -qm Begin
"""
CLEAR = """
incus list >/dev/null && clincus kill --all --force
systemctl --user is-enabled clincus >/dev/null && clincus service remove
rm -r ~/projects && rm -rf ~/.clincus ~/.config/clincus ~/*.tar.gz
"""


class Ada:
    """A person at a terminal of the machine, who types what a page says."""

    def __init__(self, machine: Machine, folder) -> None:
        self.machine, self._folder = machine, folder
        self.terminals: list[Terminal] = []
        self.terminal = self.log_in()
        self.server: Terminal | None = None
        self.printed: list[str] = []  # by the last command
        self.words: dict[str, str] = {}  # examples of a page, and what stands for them here

    def log_in(self) -> Terminal:
        """A new login, in a terminal of its own."""
        argv = self.machine.incus.exec_argv(
            self.machine.name, ["su", "--login", "ada"], terminal=True, environment={"TERM": "xterm"}
        )
        terminal = Terminal(argv, os.environ, self._folder)
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.terminals.append(terminal)
        terminal.expect("$ ")
        terminal.type("exec bash --noediting --rcfile /etc/reader\n")
        terminal.until(re.compile(r"<<done:0>>"))
        return terminal

    def log_in_again(self) -> None:
        """Type in a new login from now on: only a new one has `~/.local/bin` in PATH, and the groups of a setup."""
        self.terminal = self.log_in()

    def run(self, command: str, answers: list[str] | None = None) -> tuple[int, list[str]]:
        """Type a command, and each question's answer, `y` if there is none; its exit code and the lines it printed.

        A terminal of a session is left at once, with the agent going on.
        """
        self.terminal.type(f"{CLEAR_LINE}{command}\n")
        text, left = "", list(answers or ())
        is_attached = False
        while True:
            before, found = self.terminal.until(EVENT, within=LOST if is_attached else DEADLINE)
            text += before
            if found is None or found[0].startswith("STUB-READY"):
                if found is None or not is_attached:  # a key that the tool is sent while it draws may be lost
                    self.terminal.detach()
                is_attached = True
            elif found[1]:
                self.printed = [last_state(line) for line in text.split("\n")]
                return int(found[1]), self.printed
            elif found[0].startswith("Token"):
                token = [line for line in self.printed if line][-1]
                self.terminal.type(f"{token}\n")
            else:
                answer = left.pop(0) if left else "y"
                self.terminal.type(f"{answer}\n")
                text += f"{found[0]}{answer}\n"

    def do(self, script: str) -> str:
        """Run a script as this person, of which no page speaks; its output."""
        done = self.machine.run(["su", "--login", "ada", "--command", script], user=0, timeout=2 * DEADLINE)
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def agent(self, script: str) -> str:
        """Run a script as the agent of the session, in its workspace."""
        how = f"--user 1000 --group 1000 --cwd /workspace --env HOME=/home/code {SESSION}"
        return str(self.machine.root(f"incus exec {how} -- sh -c {shlex.quote(script)}"))

    def draw(self, lines: list[str]) -> None:
        """Let the stand-in of the tool draw lines on an empty screen, and ring so that the server looks."""
        text = "\\n".join(lines)
        for command in ("sh stty -echo", f"sh printf '\\033[2J\\033[H{text}\\n\\a'"):
            target = f"-t =clincus-{SESSION}:"
            self.agent(f"tmux send-keys {target} -l {shlex.quote(command)} \\; send-keys {target} Enter")

    def until_agent(self, *states: str) -> None:
        """Wait until the server knows what the agent is doing."""
        wait_until(lambda: self.ask(f"sessions/{SESSION}/agent")["state"] in states, f"an agent that is {states}")

    def until_checkpoint(self, why: str) -> None:
        """Wait until the newest checkpoint is of a kind."""
        wait_until(
            lambda: [one["why"] for one in self.ask(f"sessions/{SESSION}/checkpoints")][:1] == [why],
            f"the checkpoint of a {why}",
        )

    def ask(self, path: str) -> Any:
        """A GET of the API."""
        return json.loads(self.do(f"curl -sS {API}/{path}"))

    def serve(self, command: str = "clincus serve") -> None:
        """Start a server in a terminal beside this one; one that runs there is ended before."""
        self.end_server()
        self.server = self.log_in()
        self.server.type(f"{command}\n")
        self.server.expect("Dashboard running at ")

    def end_server(self) -> None:
        """End it by Ctrl-C."""
        if self.server is not None:
            self.server.type("\x03")
            _, found = self.server.until(re.compile(r"<<done:(\d+)>>"))
            assert found[1] == "0"
            self.server = None

    def close(self) -> None:
        """Leave."""
        for terminal in self.terminals:
            terminal.close()


def last_state(line: str) -> str:
    """What is left of a line on a terminal: a mark that turned in it is cleared."""
    return line.rstrip("\r").split("\r")[-1].replace("\x1b[K", "")


Action = Callable[[Ada], object]


def agent(script: str) -> Action:
    """The session's agent does something."""
    return lambda ada: ada.agent(script)


def person(script: str) -> Action:
    """The person does something of which the page speaks in words only."""
    return lambda ada: ada.do(script)


def serves(ada: Ada) -> None:
    """The dashboard runs in another terminal."""
    ada.serve()


def set_up(ada: Ada) -> None:
    """What `clincus setup` prints is done."""
    ada.do("sudo ~/.local/bin/clincus setup --yes")


def install(ada: Ada) -> None:
    """Clincus is installed and set up."""
    ada.do("install -D -m 755 clincus.pyz ~/.local/bin/clincus")
    set_up(ada)


def is_installed(ada: Ada) -> bool:
    """True if Clincus is installed and set up; the bridge is what setup makes near its end."""
    seen = ada.machine.run(["sh", "-c", "[ -e ~ada/.local/bin/clincus ] && incus network show clincusbr0"], user=0)
    return seen.returncode == 0


def set_up_anew(ada: Ada) -> None:
    """Clincus is there again, with a session."""
    ada.machine.import_image()
    install(ada)
    starts()(ada)
    ada.do("clincus service install")


def works(lines: list[str]) -> Action:
    """The agent's screen shows something."""
    return lambda ada: ada.draw(lines)


def turn(script: str) -> Action:
    """The agent takes a turn in which it runs a script."""

    def take(ada: Ada) -> None:
        wait_until(lambda: ada.ask(f"sessions/{SESSION}/checkpoints"), "the first checkpoint")
        ada.draw(CLAUDE_RESTS)
        ada.until_agent("idle", "done")
        ada.draw(CLAUDE_WORKS)
        ada.until_checkpoint("prompt")
        ada.agent(script)
        ada.draw(CLAUDE_RESTS)
        ada.until_checkpoint("turn")

    return take


def starts(words: str = "") -> Action:
    """A session has begun."""
    return lambda ada: ada.do(f"cd {PROJECT} && clincus shell --background {words}")


def all_of(*actions: Action) -> Action:
    """One after the other."""

    def do(ada: Ada) -> None:
        for action in actions:
            action(ada)

    return do


def prompts_are_queued(ada: Ada) -> None:
    """Two prompts wait; the page has examples of their ids."""
    ada.draw(CLAUDE_WORKS)
    ada.until_agent("working")
    for example in ("9f86d081884c7d65", "2c26b46b68ffc68f"):
        answer = ada.do(f'curl -sS -X POST {API}/sessions/{SESSION}/prompt -d \'{{"text": "go on"}}\'')
        ada.words[example] = json.loads(answer)["prompt_id"]


# What happens before a command, or with "" before the first one of a page.
MEANWHILE: dict[tuple[str, str], Action] = {
    ("docs/api.md", ""): serves,
    ("docs/api.md", 'curl "http://127.0.0.1:3000/api/sessions/clincus-706096-1/changes?from=turn"'): all_of(
        starts(), turn("echo '// more' >>src/app.js")
    ),
    ("docs/api.md", "curl -X POST http://127.0.0.1:3000/api/sessions/clincus-706096-1/restore"): agent(
        "echo '// and more' >>src/app.js"
    ),
    ("docs/api.md", "curl -X POST http://127.0.0.1:3000/api/sessions/clincus-706096-1/commit"): agent(
        "echo '// and more' >>src/app.js"
    ),
    ("docs/api.md", "curl http://127.0.0.1:3000/api/sessions/clincus-706096-1/ports"): agent(SERVE_PAGE),
    ("docs/api.md", "curl -X PATCH $S/prompts/"): prompts_are_queued,
    ("docs/api.md", "curl -X POST $S/answer"): works(CLAUDE_ASKS),
    ("docs/backup.md", ""): all_of(
        person("clincus service install; clincus service start; clincus config set dashboard.port 3000"), starts()
    ),
    ("docs/backup.md", "clincus service stop"): person(
        "clincus service stop; incus delete --force " + SESSION + "; rm -r ~/.clincus ~/.config/clincus"
    ),
    ("docs/clones.md", "clincus fetch"): agent(
        "echo 'sign in' >login.txt; git add .; git -c user.name=Agent -c user.email=a@localhost commit -qm 'Add a page'"
    ),
    ("docs/configuration.md", "curl http://127.0.0.1:3000/api/config "): serves,
    ("docs/configuration.md", "clincus image publish"): person(
        f"echo {shlex.quote(CODEX)} | incus file push --mode 755 - box/usr/local/bin/codex"  # what npm would bring
    ),
    ("docs/first-session.md", "clincus diff"): agent("echo 'Much better.' >>README.md; echo 'buy milk' >notes.txt"),
    ("docs/locked-down.md", "clincus shell"): serves,
    ("docs/locked-down.md", "clincus network NAME"): agent("curl -sS https://pypi.org || true"),
    ("docs/network.md", ""): serves,
    ("docs/preview.md", ""): all_of(serves, starts(), agent(SERVE_PAGE)),
    ("docs/protection.md", "incus config get"): starts(),
    ("docs/remote-access.md", "clincus service install --host"): person(
        "sudo ip address replace 192.168.1.10/32 dev lo"
    ),
    ("docs/review.md", ""): all_of(starts(), serves, turn("echo '// more' >>src/app.js; echo new >src/new.js")),
    ("docs/review.md", "clincus undo NAME --to start"): turn("echo '// again' >>src/app.js"),
    ("docs/threat-model.md", "git ls-files"): lambda ada: ada.run(f"cd {PROJECT}"),
    ("docs/upgrade.md", ""): person("clincus service install && clincus service start"),
    ("docs/uninstall.md", ""): starts(),
    ("docs/uninstall.md", "clincus service remove"): set_up_anew,
}
# The exit codes other than 0.
CODES = {
    ("docs/install.md", "clincus setup"): 1,
    (
        "docs/threat-model.md",
        """git ls-files | grep -aE '^"?/|(^|["/])(\\.git|\\.\\.?)(/|$)'""",
    ): 1,  # no line: the good case
    ("docs/uninstall.md", "clincus uninstall"): 1,  # the parts that only root can remove are left
}
# Lists of what is missing: the page shows them for a bare machine, and this one has Incus's packages.
MAY_LACK = {("docs/install.md", "clincus setup --dry-run")}
# The first two begin where nothing is set up.
ALL = [*map(pages.name_of, pages.PAGES)]
ORDER = ["docs/install.md", *(name for name in ALL if "install" not in name), "docs/uninstall.md"]
STEPS = {
    name: [*pages.steps_of(name, (pages.ROOT / name).read_text())] for name in ORDER if name not in pages.GENERATED
}


@pytest.fixture(scope="module")
def machine(bed) -> Iterator[Machine]:
    """A machine with Incus's packages, the program of a release, and nothing set up."""
    with systemd_image(bed) as image, bed.keeping("pages"):
        made = Machine(bed, image, name="pages", privileged=True)
        made.import_image()
        # Without incus-user, which makes a pool and a bridge of its own when root asks for an Incus that is not there.
        made.root("systemctl stop incus.socket incus-user.socket incus.service; rm /var/lib/incus/unix.socket*")
        made.root("sed -i /^root:/d /etc/subuid /etc/subgid")
        made.root(
            "useradd --create-home --shell /bin/bash ada; loginctl enable-linger ada;"
            "echo 'ada ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ada"
        )
        made.push("/tmp/reader", READER.encode(), 0o644)
        made.root("mv /tmp/reader /etc/reader")
        made.push("/tmp/clincus.pyz", archive(), 0o644)
        made.root("install -o ada /tmp/clincus.pyz ~ada/; cd ~ada; sha256sum clincus.pyz >SHA256SUMS")
        yield made


@pytest.fixture
def ada(machine, tmp_path) -> Iterator[Ada]:
    """The person, with a project."""
    person = Ada(machine, tmp_path)
    person.do(f"git config --global user.name Ada; git config --global user.email ada@example.com; {MAKE_PROJECT}")
    yield person
    person.end_server()
    person.close()
    try:
        person.do(CLEAR)
    except AssertionError as error:
        hung = machine.root("timeout 20 incus operation list; ps axfo pid,stat,wchan:30,etimes,args; dmesg | tail -20")
        raise AssertionError(f"{error}\n{hung}") from None


def action_before(step: pages.Step) -> Action | None:
    """What happens before a command."""
    found = (
        do for (page, begin), do in MEANWHILE.items() if page == step.page and begin and step.command.startswith(begin)
    )
    return next(found, None)


# These two install Clincus.
FIRST = ("docs/install.md", "README.md")


@pytest.mark.timeout(900)  # the first one waits for the image of the machine
@pytest.mark.parametrize("name", [name for name, steps in STEPS.items() if steps])
def test_the_commands_of_a_page_do_what_it_says(ada, name):
    if name not in FIRST and not is_installed(ada):
        install(ada)
        ada.log_in_again()
    MEANWHILE.get((name, ""), lambda ada: None)(ada)
    for step in STEPS[name]:
        if step.why_not_run:
            continue
        before = action_before(step)
        if before is not None:
            before(ada)
        place = f"{name}:{step.line}: {step.command}"
        command = re.sub(r"\bNAME\b", SESSION, step.command)
        for example, meant in ada.words.items():
            command = command.replace(example, meant)
        if command.startswith("clincus serve"):
            ada.serve(command)
            continue
        answers = [line[found.end() :] for line in step.shown if (found := pages.QUESTION.search(line))]
        code, printed = ada.run(command, answers)
        assert code == CODES.get((name, step.plain), 0), "\n".join([place, *printed])
        if (name, step.plain) in MAY_LACK:
            assert [line for line in printed if line and line not in step.shown] == [], "\n".join([place, *printed])
        elif step.shown:
            assert pages.differences(step.shown, printed) == [], "\n".join([place, *printed])
