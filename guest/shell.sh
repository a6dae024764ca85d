#!/bin/sh
# A login shell in the workspace with the tool's environment, or the tool, if it was ever started here.
#
# Arguments: workspace, and for the tool `tool`, or `direct` to end with it.
[ -z "${2:-}" ] || [ ! -x "$HOME/.clincus/start" ] || exec "$HOME/.clincus/start" "$2"
cd "$1" 2>/dev/null || cd || exit 1
# shellcheck source=/dev/null
[ ! -r "$HOME/.clincus/environment" ] || { set -a; . "$HOME/.clincus/environment"; set +a; }
[ -x "${SHELL:-}" ] || SHELL=/bin/bash
[ -x "$SHELL" ] || SHELL=/bin/sh
export SHELL
exec "$SHELL" -l
