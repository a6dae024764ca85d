#!/bin/sh
# Runs the command of `clincus run`, with the variables that a person chose for it.
#
# Arguments: workspace, and the command.
# shellcheck source=/dev/null
[ ! -r /run/clincus-command ] || { set -a; . /run/clincus-command; set +a; }
cd -- "$1" || exit 126
shift
exec "$@"
