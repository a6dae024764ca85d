"""What git on the host runs, or reads as its configuration: as the real git understands the configuration."""

import os
import shlex
import shutil
import subprocess

import pytest

import clincus
from tests.table import table
from wall import places


class Host:
    """A home folder with a repository in it, and git as its owner uses it."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.work = self.home / "work"
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1"}
        self.work.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *words, cwd=None, check=True):
        base = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
        return subprocess.run(
            [*base, *words], cwd=cwd or self.work, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=check,
        )  # fmt: skip

    def commit(self, cwd=None):
        self.git("commit", "-q", "--allow-empty", "-m", "x", cwd=cwd)

    def write(self, path, text):
        (self.work / path).parent.mkdir(parents=True, exist_ok=True)
        (self.work / path).write_text(text)

    def places(self, workspace=None):
        """What is found in a workspace, relative to it, without what is protected anyway; a `/` ends a folder."""
        root = str(workspace or self.work)
        sealed = {".git/hooks": "", ".husky": "", ".cursor": False}
        places = clincus.protect.git_on_host(root, [str(self.home)], {"PATH": os.environ["PATH"]}, sealed).places
        inside = {path: text for path, text in places.items() if clincus.path_inside(path, root)}
        return {os.path.relpath(path, root) + ("/" if text is None else str(text)) for path, text in inside.items()}

    def unread(self):
        """The keys whose command Clincus cannot read."""
        return list(
            clincus.protect.git_on_host(str(self.work), [str(self.home)], {"PATH": os.environ["PATH"]}, {}).unread
        )


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@table(
    ("config", "places"),
    [
        ("", set()),
        # Hooks: from the top of the working tree, or for a push from the Git folder.
        ("[core]\n\tbare = false\n\thooksPath = .githooks\n", {".githooks/", ".git/.githooks/"}),
        ("[core]\n\thooksPath = \\\n  .git\\\nhooks\n", {".githooks/", ".git/.githooks/"}),
        ("[core]\n\thooksPath = /etc/hooks\n", set()),
        ("[core]\n\thooksPath = ~/work/hooks\n", {"hooks/"}),
        ("[core]\n\thooksPath = ../../outside\n", set()),
        ("[core]\n\thooksPath = src/../hooks\n", {"src/", "hooks/", ".git/src/", ".git/hooks/"}),
        # Files: includes start from the file that names them.
        ("[include]\n\tpath = ../.gitconfig\n", {".gitconfig"}),
        ('[includeIf "onbranch:other"]\n\tpath = ~/work/team.config\n', {"team.config"}),
        ("[core]\n\tattributesFile = attributes\n", {"attributes"}),
        ("[init]\n\ttemplateDir = ~/work/template\n", {"template/"}),
        # Commands: what is a path in them, and of bare names those that are files there.
        ("[core]\n\tfsmonitor = .git/watch\n\tfsmonitor = true\n", {".git/watch/"}),
        ("[core]\n\tsshCommand = ssh -F ci/ssh_config -i $HOME/.ssh/id\n", {"ci/ssh_config/"}),
        ("[core]\n\teditor = vim\n\tpager = less -R\n\taskPass = ./ask\n", {"ask/"}),
        ('[diff "png"]\n\ttextconv = python3 script.py\n\tcommand = diff.py\n', {"script.py/"}),
        ('[filter "x"]\n\tclean = python3 tools/clean.py %f\n\tsmudge = sed s/a/b/\n', {"tools/clean.py/"}),
        ('[filter "x"]\n\tclean = $PWD/tool $(cat ci/options) %f\n', {"tool/", "ci/options/"}),
        ('[credential "https://x.y"]\n\thelper = !script.py get\n\thelper = cache --timeout=1\n', {"script.py/"}),
        (
            '[alias]\n\tx = !./go\n\ty = log origin/main\n\tz = "!f() { python3 script.py; }; f"\n',
            {"go/", "script.py/"},
        ),
        ("[sequence]\n\teditor = ci/todo\n[core]\n\tgitProxy = ci/proxy for x\n", {"ci/todo/", "ci/proxy/"}),
        ('[remote "x"]\n\turl = ext::ci/transport %S\n\tfetch = +refs/heads/*:refs/remotes/x/*\n', {"ci/transport/"}),
        ('[url "ext::ci/other %S"]\n\tinsteadOf = https://x.y/\n', {"ci/other/"}),
        ('[submodule "x"]\n\tupdate = !ci/update\n\turl = ./sub/module\n', {"ci/update/"}),
    ],
)
def test_what_the_configuration_of_the_repository_names(tmp_path, config, places):
    host = Host(tmp_path)
    host.write("script.py", "")
    host.write(".git/config", config)
    assert host.places() == places


@table(
    ("key", "command", "places"),
    [
        ("diff.x.textconv", "awk -ftools/t", {"tools/t/"}),
        ("core.sshCommand", "ssh -F./tools/t", {"tools/t/"}),
        ("alias.x", "!cd tools && ./t", {"tools/t/", "t/"}),
        ("alias.x", '!"$(pwd)"/tools/t', {"tools/t/"}),
        ("alias.x", '!"tools/x y"', {"tools/x y/"}),
        ("alias.x", '!find tools -name t -exec sh {} ";"', {"tools/t/"}),
        ("alias.x", "!T=tools; $T/t", {"tools/t/", "t/"}),
        ("alias.x", "!sh -c 'cd tools; sh t'", {"tools/t/"}),
        ("alias.x", "log tools", set()),
        ("alias.x", "log -- tools/t", {"tools/t/"}),
    ],
)
def test_a_program_of_the_workspace_is_found_in_a_command(tmp_path, key, command, places):
    host = Host(tmp_path)
    host.write("tools/t", "")
    host.write("tools/x y", "")
    host.git("config", key, command)
    assert host.places() == places


@table(
    ("command", "is_read"),
    [
        ('f() { git log "$@"; }; f', True),
        ('"$(git rev-parse --show-toplevel)"/tools/t', True),
        ('code --diff "$LOCAL" "$REMOTE"', True),
        ("find tools -name 't*' -exec sh {} ';'", False),
        ('eval "$X"', False),
        ("`cat tools/which`", False),
        ("ls tools | xargs -n1 sh", False),
    ],
)
def test_a_command_that_cannot_be_read_is_said(tmp_path, command, is_read):
    host = Host(tmp_path)
    host.write("tools/t", "")
    host.git("config", "core.pager", command)
    assert host.unread() == ([] if is_read else ["core.pager"])


@table(
    ("command", "is_said"),
    [
        ("!git rebase -i $(git merge-base HEAD origin/main)", False),
        ('!f() { git push origin "${1:-$(git symbolic-ref --short HEAD)}"; }; f', False),
        ("!tools/$(echo t)", True),
        ("!ls tools | xargs -n1 sh", True),
        ('!cd "$GIT_PREFIX" && sh -c "tools/$1"', True),
        ("log $x", False),  # git runs no shell for it
    ],
)
def test_of_aliases_only_those_are_said_that_name_something_in_the_workspace(tmp_path, command, is_said):
    """People have many, and run them when they want to."""
    host = Host(tmp_path)
    host.write("tools/t", "")
    host.git("config", "alias.x", command)
    assert host.unread() == (["alias.x"] if is_said else [])


def test_what_the_configuration_of_the_user_names(host):
    (host.home / ".gitconfig").write_text("[core]\n\thooksPath = .githooks\n")
    assert host.places() == {".githooks/", ".git/.githooks/"}


def test_what_an_included_file_names_through_another_one(host):
    (host.home / ".gitconfig").write_text('[includeIf "onbranch:never"]\n\tpath = work/one\n')
    host.write("one", "[include]\n\tpath = deep/two\n")
    host.write("deep/two", "[core]\n\thooksPath = ~/work/hooks\n[include]\n\tpath = absent\n")
    assert host.places() == {"one", "deep/two", "deep/absent", "hooks/"}


def test_a_home_folder_of_links_into_the_workspace(host):
    """As people keep their dot files in a repository."""
    host.write("gitconfig", "[core]\n\thooksPath = ~/hooks\n")
    (host.home / ".gitconfig").symlink_to("work/gitconfig")
    (host.home / "hooks").symlink_to("work/githooks")
    (host.home / ".config/git").mkdir(parents=True)
    (host.home / ".config/git/attributes").symlink_to("../../work/gitattributes")
    assert host.places() == {"gitconfig", "githooks/", "gitattributes"}


@table("gitdir", ["", "../../../trees/one/.git\n"])  # the second: worktree.useRelativePaths
def test_a_worktree_in_the_workspace_is_looked_at(tmp_path, gitdir):
    host = Host(tmp_path)
    host.commit()
    host.git("worktree", "add", "-q", "trees/one")
    host.write(".git/worktrees/one/gitdir", gitdir or f"{host.work}/trees/one/.git\n")
    host.git("config", "core.hooksPath", ".githooks")
    assert host.places() == {".githooks/", ".git/.githooks/", "trees/one/.githooks/"}


def test_a_subfolder_has_the_repository_above_it(host):
    host.write("app/web/x", "")
    host.git("config", "core.hooksPath", "app/web/hooks")
    assert host.places(host.work / "app/web") == {"hooks/"}


def test_a_submodule_is_looked_at(host):
    other = Host(host.home / "other")
    other.commit()
    host.git("submodule", "add", "-q", str(other.work), "lib")
    host.git("config", "core.hooksPath", "../ci/hooks", cwd=host.work / "lib")
    assert host.places() == {"ci/hooks/", ".git/modules/ci/hooks/"}


def test_a_git_folder_of_another_name_is_found(host):
    (host.work / ".git").rename(host.work / ".bare")
    host.write(".git", "gitdir: ./.bare\n")
    folders = clincus.protect.git_on_host(str(host.work), [str(host.home)], os.environ, {}).folders
    assert folders == (str(host.work / ".bare"),)


def test_asking_runs_nothing_of_what_is_named(host, tmp_path):
    mark = tmp_path / "mark"
    (host.work / "evil").write_text(f"#!/bin/sh\necho $0 >> {mark}\n")
    (host.work / "evil").chmod(0o755)
    evil = host.work / "evil"
    for key in (
        "core.fsmonitor", "core.pager", "pager.config", "core.editor", "core.sshCommand", "core.askPass",
        "alias.config", "credential.helper", "diff.external", "filter.x.clean", "filter.x.process",
        "core.alternateRefsCommand", "hook.x.command",
    ):  # fmt: skip
        host.git("config", key, f"!{evil}" if key == "alias.config" else str(evil))
    host.git("config", "core.hooksPath", str(host.work))
    host.git("config", "trace2.eventTarget", str(mark))
    host.write("pre-commit", evil.read_text())
    host.write(".gitattributes", "* filter=x\n")
    host.git("config", "--global", "core.fsmonitor", str(evil))
    mark.unlink(missing_ok=True)
    assert "evil/" in host.places()
    assert not mark.exists()
    host.git("status", check=False)
    assert mark.exists()  # the trap works


def test_a_git_that_lies_in_the_workspace_is_not_run(host):
    program = host.work / "bin/git"
    host.write("bin/git", "")
    program.chmod(0o755)
    found = clincus.protect.find_git(str(host.work), {"PATH": f"bin:.::{program.parent}:{os.environ['PATH']}"})
    assert not found.startswith(str(host.home))
    assert os.access(found, os.X_OK)


def test_without_git_a_repository_is_refused_and_a_plain_folder_is_not(host, monkeypatch):
    monkeypatch.setattr("clincus_wall.protect.find_git", lambda *_: "")
    with pytest.raises(clincus.ClincusError, match="Install git") as caught:
        host.places()
    assert caught.value.status == 409
    (host.home / "plain").mkdir()
    assert host.places(host.home / "plain") == set()


@table("path", [".git/config", "included"])
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(tmp_path, path):
    host = Host(tmp_path)
    host.write(".git/config", "[include]\n\tpath = ../included\n")
    (host.work / path).unlink(missing_ok=True)
    os.mkfifo(host.work / path)
    with pytest.raises(clincus.ClincusError, match="is not a regular file"):
        host.places()
    with open(os.open(host.work / path, os.O_RDWR)), pytest.raises(clincus.ClincusError):  # somebody who never writes
        host.places()


# An agent must not keep people out of their own folder: the words say what helps.


def refused(host):
    """The words with which a start is refused, "" if it is not."""
    question = {"git": shutil.which("git"), "workspace": str(host.work), "homes": [str(host.home)], "environ": {}}
    question["sealed"] = {".husky": ""}
    return str(places.answer(question).get("refused", ""))


EVIL = ".git/modules/it's $(touch pwned); x"  # a Git folder with a name that an agent chose


def many_folders(host, path):
    for number in range(30):
        (host.work / path.format(number)).mkdir(parents=True)


def evil_config(host, text, **files):
    for name, more in {"config": text, **files}.items():
        host.write(f"{EVIL}/{name}", more)


def pipe(host, path):
    (host.work / path).parent.mkdir(parents=True)
    (host.work / path).parent.joinpath("HEAD").touch()
    os.mkfifo(host.work / path)


def chain(host):
    evil_config(host, "[include]\npath = 0\n", **{str(n): f"[include]\npath = {n + 1}\n" for n in range(1001)})


OBSTACLES = {
    "a submodule of many folders": (lambda host: many_folders(host, ".git/modules/evil/{}"), ".git/modules/evil"),
    "a config that is none": (lambda host: evil_config(host, "[core"), EVIL),
    "one that includes a device": (lambda host: evil_config(host, "[include]\npath = /dev/zero\n"), EVIL),
    "one that includes without end": (chain, EVIL),
    "one that is a pipe": (lambda host: pipe(host, f"{EVIL}/config"), EVIL),
}


@table("obstacle", OBSTACLES)
def test_what_an_agent_can_do_against_a_start_is_undone_by_the_command_that_is_told(tmp_path, monkeypatch, obstacle):
    host = Host(tmp_path)
    monkeypatch.setattr(places, "MOST_FOLDERS", 20)
    make, folder = OBSTACLES[obstacle]
    make(host)
    words = refused(host)
    command = f"rm -r {shlex.quote(str(host.work / folder))}"
    assert words.endswith(command), words
    subprocess.run(command, shell=True, cwd=host.work, check=True)
    assert refused(host) == ""
    assert not (host.work / "pwned").exists()
    host.git("status")


def test_no_command_is_made_of_a_name_that_a_terminal_would_not_show(host):
    host.write(".git/modules/a\x1b[2J/config", "[core")
    words = refused(host)
    assert words.endswith(" in an editor")
    assert "rm -r" not in words


# ---- links in what is sealed -----------------------------------------------------------------------------------------


def link(host, path, target):
    (host.work / path).parent.mkdir(parents=True, exist_ok=True)
    (host.work / path).symlink_to(target)


@table(
    ("path", "target", "places"),
    [
        (".git/hooks/pre-commit", "../../scripts/hook.sh", {"scripts/hook.sh"}),
        (".git/modules/lib/hooks/pre-commit", "../../../../scripts/hook.sh", {"scripts/hook.sh"}),
        (".husky/pre-commit", "../scripts/hook.sh", {"scripts/hook.sh"}),
        (".cursor/deep/hooks.json", "../../scripts/hook.sh", {"scripts/hook.shFalse"}),
        (".git/hooks/pre-commit", "pre-push", {".git/hooks/pre-push"}),
        (".git/hooks/pre-commit", "/usr/bin/true", set()),
        (".git/hooks/pre-commit", "../../chain", {"chain/", "scripts/hook.sh"}),
    ],
)
def test_the_file_that_a_link_in_a_sealed_folder_leads_to_is_protected(tmp_path, path, target, places):
    host = Host(tmp_path)
    host.write("scripts/hook.sh", "true\n")
    host.write(".git/modules/lib/HEAD", "ref: refs/heads/main\n")
    link(host, "chain", "scripts/hook.sh")
    link(host, path, target)
    assert host.places() == places
