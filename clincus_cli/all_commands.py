"""All commands: each part of the command line declares its own when it is imported."""

from clincus_cli import (  # noqa: F401
    agents,
    clone,
    completion,
    containers,
    cost,
    engines,
    files,
    help,
    images,
    network,
    ports,
    review,
    run,
    service,
    sessions,
    setup_commands,
    shell,
    snapshots,
    trust,
)
