"""Part of the command line."""

from __future__ import annotations

from dataclasses import replace

import clincus
from clincus_cli.completion import run_completion_bash
from clincus_cli.completion import run_completion_fish
from clincus_cli.completion import run_completion_powershell
from clincus_cli.completion import run_completion_zsh
from clincus_cli.containers import CONTAINER_COMMANDS
from clincus_cli.files import FILE_COMMANDS
from clincus_cli.help import run_help
from clincus_cli.help import run_man
from clincus_cli.help import run_version
from clincus_cli.help import run_version_flag
from clincus_cli.images import IMAGE_COMMANDS
from clincus_cli.run import run_run
from clincus_cli.run import run_tmux_capture
from clincus_cli.run import run_tmux_list
from clincus_cli.run import run_tmux_send
from clincus_cli.serve import run_serve
from clincus_cli.service import SERVE_FLAGS
from clincus_cli.service import SERVICE_COMMANDS
from clincus_cli.sessions import run_clean
from clincus_cli.sessions import run_info
from clincus_cli.sessions import run_kill
from clincus_cli.sessions import run_list
from clincus_cli.sessions import run_persist
from clincus_cli.sessions import run_resume
from clincus_cli.sessions import run_shutdown
from clincus_cli.sessions import run_stop
from clincus_cli.setup_commands import SETUP_COMMANDS
from clincus_cli.shell import run_attach
from clincus_cli.shell import run_shell
from clincus_cli.snapshots import SNAPSHOT_COMMANDS
from clincus_cli.trust import run_trust
from clincus_cli.words import COMMAND_TABLE
from clincus_cli.words import FORCE_FLAG
from clincus_cli.words import SHELL_FLAGS
from clincus_cli.words import SLOT_FLAG
from clincus_cli.words import WORKSPACE_FLAG
from clincus_cli.words import Command
from clincus_cli.words import flag
from clincus_cli.words import format_flag
from clincus_cli.words import number_from

INCUS_COMMANDS = (
    *CONTAINER_COMMANDS,
    *FILE_COMMANDS,
    *SNAPSHOT_COMMANDS,
    *IMAGE_COMMANDS,
    *SERVICE_COMMANDS,
)

BASIC_COMMANDS = (
    Command(
        "serve",
        run_serve,
        "Serve the dashboard and its API",
        flags=(*SERVE_FLAGS, flag("--open", "open the dashboard in a browser")),
        about="Listens on this machine only, and for you and root only, until Ctrl-C or SIGTERM; a second one ends it "
        "at once. Others come in with a token: --token-file, or CLINCUS_TOKEN; the link that is printed on a terminal "
        "holds it.",
        examples=(("clincus serve --open", "Serve, and show the dashboard in the browser."),),
        exits=(
            ("0", "ended by Ctrl-C or SIGTERM"),
            ("1", "could not start, such as a port that is taken"),
            ("130", "ended at once by a second Ctrl-C"),
        ),
    ),
    Command(
        "version",
        run_version,
        "Print the version",
        arguments="[ARGUMENT...]",
        about="Arguments count for nothing.",
        examples=(("clincus version", "The version, and the commit it was built from."),),
    ),
    Command("version-flag", run_version_flag, ""),
    Command(
        "man",
        run_man,
        "Print the manual page",
        about="In roff: the help of all commands on one page.",
        examples=(("clincus man | man -l -", "Read it."),),
    ),
    Command(
        "help",
        run_help,
        "Show help on a command",
        arguments="[COMMAND...]",
        examples=(("clincus help snapshot create", "Show what `snapshot create` takes and does."),),
    ),
)

NAMES_HELP = "Several names, and --all, are asked for first; --force agrees."
EACH_EXITS = (
    ("0", "done, or nothing to do, or declined"),
    ("1", "a container could not be handled, or none was named"),
)
TIMEOUT_FLAG = flag("--timeout SECONDS", "for a clean stop, then it is forced", check=number_from(0, 3600))
JSON_FLAG = format_flag("text", "json")

SESSION_COMMANDS = (
    Command(
        "shell",
        run_shell,
        "Start a session in a project directory, or go back to it",
        arguments="[DIRECTORY]",
        flags=SHELL_FLAGS,
        starts=True,
        about="""
            Makes a container with the directory mounted, starts the tool in tmux in it, and attaches. What runs on the
            host is protected from what happens inside. Detach with Ctrl-B D: the session runs on.

            A session of the directory that is running already is gone back to; --slot chooses among several, or a new
            one beside it. --persistent also goes on with a stopped persistent session. When all programs in the
            terminal have ended, the conversation is saved; a persistent container is stopped then, any other removed.

            --resume goes on with a saved conversation, in its own container if that still is there.
        """,
        examples=(
            ("clincus", "Start the configured tool in the current directory."),
            ("clincus shell ~/src/app --tool copilot --persistent", "Another tool, in a container that is kept."),
            ("clincus shell --resume", "Go on with the last conversation of this directory."),
            ("clincus shell --background -e API_KEY --limit-memory 4GiB", "Start without attaching."),
        ),
        exits=(("0", "the session ended, was detached, or runs in the background"), ("1", "it could not be started")),
    ),
    Command(
        "attach",
        run_attach,
        "Attach this terminal to a session",
        arguments="[NAME]",
        flags=(
            flag("--bash", "a shell of its own instead of the tool's terminal"),
            replace(SLOT_FLAG, meaning="the session in this slot of the workspace (default: none)"),
            WORKSPACE_FLAG,
        ),
        about="Without NAME or --slot: to the only running session, or a list of them.",
        examples=(
            ("clincus attach clincus-ec0578-1", "Go to that session's tool."),
            ("clincus attach --slot 2 --bash", "A shell beside the tool in slot 2 of this directory."),
        ),
    ),
    Command(
        "list",
        run_list,
        "List the sessions",
        flags=(flag("--all", "saved conversations as well"), JSON_FLAG),
        examples=(("clincus list --all --format json", "Everything, for a program."),),
    ),
    Command(
        "info",
        run_info,
        "Show a saved conversation",
        arguments="[SESSION_ID]",
        about="SESSION_ID is the id of a session, or its container's name; without it, the newest is shown.",
        examples=(("clincus info clincus-ec0578-1", "What is saved of that container's session."),),
    ),
    Command(
        "resume",
        run_resume,
        "Let a paused or stopped session go on",
        arguments="[NAME]",
        about="""
            A paused container runs on, a stopped one is started, and its tool with the conversation that it had.
            Without NAME: all paused ones.
        """,
        examples=(("clincus resume clincus-ec0578-1", "Go on after `clincus stop`; `clincus attach` shows it."),),
    ),
    Command(
        "stop",
        run_stop,
        "Stop sessions and keep their containers",
        arguments="[NAME...]",
        flags=(replace(TIMEOUT_FLAG, default=clincus.STOP_TIMEOUT), flag("--all", "every running session"), FORCE_FLAG),
        about=f"The conversation is saved first. `clincus resume` starts the container again. {NAMES_HELP}",
        examples=(("clincus stop clincus-ec0578-1", "Stop it for the night."),),
        exits=EACH_EXITS,
    ),
    Command(
        "shutdown",
        run_shutdown,
        "Stop sessions cleanly and delete those that are not persistent",
        arguments="[NAME...]",
        flags=(
            replace(TIMEOUT_FLAG, default=60),
            flag("--delete", "delete persistent ones, too"),
            flag("--all", "every session"),
            flag("--dry-run", "only show which ones"),
            FORCE_FLAG,
        ),
        about=f"The conversation is saved first. {NAMES_HELP}",
        examples=(("clincus shutdown --all --force", "End every session cleanly, without a question."),),
        exits=EACH_EXITS,
    ),
    Command(
        "kill",
        run_kill,
        "Delete sessions at once",
        arguments="[NAME...]",
        flags=(
            flag("--all", "every session"),
            flag("--dry-run", "only show which ones"),
            flag("--force", "do not ask, and delete also a conversation that its container does not hand over"),
        ),
        about=f"The conversation is saved first; where it cannot be, the container stays. {NAMES_HELP}",
        examples=(("clincus kill --all --force", "Delete every session without a question."),),
        exits=EACH_EXITS,
    ),
    Command(
        "persist",
        run_persist,
        "Keep the containers of sessions when these end",
        arguments="[NAME...]",
        flags=(flag("--all", "every session"), FORCE_FLAG),
        about=NAMES_HELP,
        examples=(("clincus persist clincus-ec0578-1", "Keep what is installed in that container."),),
        exits=EACH_EXITS,
    ),
    Command(
        "run",
        run_run,
        "Run one command in a container of its own",
        arguments="COMMAND...",
        flags=(
            flag(
                "--timeout SECONDS",
                "kill it after so long, with exit code 124; 0 for never",
                check=number_from(0, 10**8),
                default=0,
            ),
            flag("--capture", "accepted; the output is passed on in any case"),
            format_flag("pretty", "json"),
            flag("-q, --quiet", "nothing of our own on stderr"),
        ),
        starts=True,
        passes_on=1,
        about="""
            The directory is mounted, limited and protected as in a session. A single argument goes through a shell,
            several are run as they are. Input and output pass through unchanged, and the container is removed whatever
            happens; with --persistent it is stopped, and used again by the next run in the same --slot.

            Our own flags may stand anywhere; in front of a command with flags of the same names put --.
        """,
        examples=(
            ("clincus run 'npm ci && npm test'", "Through a shell."),
            ("clincus run --timeout 600 make -j4 test", "With a time limit; -j4 belongs to make."),
            ("clincus run -q -- grep -e x README.md | wc -l", "-e belongs to grep."),
        ),
        exits=(("CODE", "that of the command"), ("1", "also: it could not be started"), ("124", "--timeout was over")),
    ),
    Command(
        "clean",
        run_clean,
        "Remove what is left of ended sessions",
        flags=(
            flag("--sessions", "saved conversations without a container"),
            flag("--orphans", "stopped containers whose directory is gone"),
            flag("--all", "all of it, and stopped persistent containers too"),
            flag("--dry-run", "only show what would be removed"),
            FORCE_FLAG,
        ),
        about="""
            Without a switch: stopped containers that are not persistent, and what a crash left behind. Their
            conversations are saved first. Each kind is shown and asked for on its own.
        """,
        examples=(("clincus clean --dry-run --all", "See what there is."),),
    ),
    Command(
        "tmux send",
        run_tmux_send,
        "Type a line into a session",
        arguments="CONTAINER TEXT",
        about="TEXT is typed as it is, then Enter.",
        examples=(("clincus tmux send clincus-ec0578-1 'run the tests'", "Ask the tool for something."),),
    ),
    Command(
        "tmux capture",
        run_tmux_capture,
        "Print what a session's terminal shows",
        arguments="CONTAINER",
        flags=(
            flag("--lines N", "so many lines of history, too", check=number_from(0, 50_000), default=0),
            flag("-e, --escapes", "with colours"),
        ),
        about="Without a newline at the end where the output is no terminal.",
        examples=(("clincus tmux capture clincus-ec0578-1 --lines 500", "The screen and the 500 lines above it."),),
    ),
    Command(
        "tmux list",
        run_tmux_list,
        "List the sessions with a terminal",
        examples=(("clincus tmux list", "Which sessions `tmux send` can type into."),),
    ),
    Command(
        "trust",
        run_trust,
        "Show a project's .clincus.toml and let it set everything",
        arguments="[DIRECTORY]",
        flags=(flag("--revoke", "take the trust back"), FORCE_FLAG, WORKSPACE_FLAG),
        about="""
            A project's own settings may choose a tool, an image and one of your profiles. Limits, mounts, protection
            and the like wait until you have seen the file and agreed. The trust is for this content:
            whoever changes the file has to ask you again.
        """,
        examples=(("clincus trust ~/src/app", "Read its .clincus.toml, and agree or not."),),
    ),
    Command(
        "completion bash",
        run_completion_bash,
        "Print the completion script for bash",
        examples=((". <(clincus completion bash)", "In ~/.bashrc."),),
    ),
    Command(
        "completion zsh",
        run_completion_zsh,
        "Print the completion script for zsh",
        examples=(("clincus completion zsh >~/.zfunc/_clincus", "With ~/.zfunc in $fpath."),),
    ),
    Command(
        "completion fish",
        run_completion_fish,
        "Print the completion script for fish",
        examples=(("clincus completion fish >~/.config/fish/completions/clincus.fish", "For every new shell."),),
    ),
    Command(
        "completion powershell",
        run_completion_powershell,
        "Print the completion script for PowerShell",
        examples=(("clincus completion powershell | Out-String | Invoke-Expression", "In the file $PROFILE."),),
    ),
)

# Each group of commands is a table of its own; `clincus help` sorts them.
COMMAND_TABLE.extend((*SESSION_COMMANDS, *BASIC_COMMANDS, *SETUP_COMMANDS, *INCUS_COMMANDS))
