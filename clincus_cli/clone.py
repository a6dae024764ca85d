"""`fetch` and `push`: bring the commits of a session with a clone to this host, and newer ones back."""

from __future__ import annotations

from clincus_cli import commands as cli
from clincus_cli import console
from clincus_cli.context import Context


@cli.Command("fetch [NAME] [BRANCH]", cli.RESULT_JSON, writes=True)
def run_fetch(context: Context) -> int:
    """Bring the commits of a session's clone into its directory, as a branch

    For a session that was started with --clone. Uncommitted changes there arrive as one more commit. The branch is
    BRANCH, or `clincus/` and the session's name or id. Your checkout, your index and your files stay as they are, and
    you merge. The command does not touch a branch that you moved elsewhere.

    $ clincus fetch clincus-ec0578-1  # Bring what was done so far.
    $ clincus fetch clincus-ec0578-1 login && git diff main...login  # As a branch of another name, and look at it.
    """
    from clincus_features.clone import clone_of
    from clincus_features.clone.landing import fetch

    with console.progress("Fetching"), clone_of(context.sessions, context.options.name) as session:
        found = fetch(context.sessions, session, context.options.branch)
    if found.gitlinks:
        words = "git takes these folders of it for submodules, and will look into a repository that comes there"
        more = " and more" if found.gitlinks_truncated else ""
        console.warn(f"{words}: {', '.join(found.gitlinks)}{more}")
    console.say(f"{count(found.commits)} of {session.id}, in '{session.workspace}' as")
    return context.show(found._asdict(), [found.branch])


@cli.Command("push [NAME] [BRANCH]", cli.RESULT_JSON, writes=True)
def run_push(context: Context) -> int:
    """Give a session's clone the newer commits of its directory

    For a session that was started with --clone. They arrive in the clone as the remote branch `host/BRANCH`; the
    command merges nothing. BRANCH is what you have checked out, unless you name another one.

    $ clincus push clincus-ec0578-1  # Then ask the tool to rebase on host/main.
    """
    from clincus_features.clone import clone_of
    from clincus_features.clone.transfer import give_branch

    with console.progress("Pushing"), clone_of(context.sessions, context.options.name) as session:
        found = give_branch(context.sessions, session, context.options.branch)
    console.say(f"{count(found.commits)} for {session.id}, which has them as")
    return context.show(found._asdict(), [found.branch])


def count(commits: int) -> str:
    """A number of commits in words."""
    return f"{commits} commit{'' if commits == 1 else 's'}"
