"""Part of the command line."""

from __future__ import annotations

import os

import clincus
from clincus_cli.console import confirm
from clincus_cli.context import Context
from clincus_cli.shell import chosen_workspace


def run_trust(context: Context) -> int:
    """`clincus trust`: show a workspace's .clincus.toml, ask, and remember its content."""
    options, environ = context.options, context.environ
    workspace = chosen_workspace(options)
    if not options.revoke and not os.path.isdir(workspace):
        raise clincus.ClincusError(f"'{workspace}' is no directory", 404)
    if options.revoke:
        had = clincus.set_trust(environ, workspace, None)
        print(f"{workspace}: the trust is taken back" if had else f"{workspace}: it was not trusted")
        return 0
    project = clincus.read_project(workspace)
    if project is None:
        raise clincus.ConfigError(f"'{workspace}' has no {clincus.PROJECT_FILE}: there is nothing to trust", status=404)
    print(f"{project.path}:\n")
    print("\n".join(f"  {clincus.printable(line)}" for line in project.text.splitlines()))
    print()
    if clincus.is_trusted(environ, workspace, project):
        print("This content is trusted. `clincus trust --revoke` takes that back.")
        return 0
    config = clincus.apply_project(context.config, project, trusted=False)
    for warning in [one for one in config.warnings if one not in context.config.warnings]:
        print(f"  {clincus.printable(warning)}")
    if not confirm("Let this file set all that for sessions in this workspace?", force=options.force):
        return 0
    clincus.set_trust(environ, workspace, project)
    print(f"Trusted until {clincus.PROJECT_FILE} changes.")
    return 0
