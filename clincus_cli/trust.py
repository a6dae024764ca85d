"""`trust`: a person reads a project's own settings and agrees to them."""

from __future__ import annotations

import os

import clincus
from clincus_cli import commands as cli
from clincus_cli import console, shell
from clincus_cli.context import Context


@cli.Command(
    "trust [DIRECTORY]",
    cli.Flag("--revoke", "take the trust back"),
    cli.YES,
    cli.FORCE,
    cli.RESULT_JSON,
    cli.WORKSPACE,
    writes=True,
)
def run_trust(context: Context) -> int:
    """Show a project's .clincus.toml and let it set everything

    A project's own settings may choose a tool, an image and one of your profiles. Clincus ignores its limits, mounts,
    protection and the like until you have seen the file and agreed. You trust this content only: after a change of the
    file it asks you again.

    $ clincus trust ~/src/app  # Read its .clincus.toml, and agree or not.
    """
    from clincus_features import trust

    options = context.options
    environ = context.environ
    workspace = shell.chosen_workspace(options)
    if options.revoke:
        had = trust.set_trust(environ, workspace, None)
        words = f"{workspace}: the trust is taken back" if had else f"{workspace}: it was not trusted"
        return context.show({"workspace": workspace, "trusted": False}, [words])
    if not os.path.isdir(workspace):
        raise clincus.ClincusError(f"'{workspace}' is no directory: name that of a project", 404)
    project = trust.read_project(workspace)
    if project is None:
        raise clincus.ConfigError(f"'{workspace}' has no {trust.PROJECT_FILE}: there is nothing to trust", 404)
    context.tell(f"{project.path}:\n")
    context.tell("\n".join(f"  {clincus.printable(line)}" for line in project.text.splitlines()) + "\n")
    document = {"workspace": workspace, "trusted": True}
    if trust.is_trusted(environ, workspace, project):
        return context.show(document, ["This content is trusted. `clincus trust --revoke` takes that back."])
    config = trust.apply_project(context.config, project, trusted=False)
    for warning in [one for one in config.warnings if one not in context.config.warnings]:
        context.tell(f"  {clincus.printable(warning)}")
    if not console.confirm("Let this file set all that for sessions in this workspace?", yes=cli.agreed(options)):
        return 1
    trust.set_trust(environ, workspace, project)
    return context.show(document, [f"Trusted until {trust.PROJECT_FILE} changes."])
