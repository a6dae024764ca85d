#!/bin/sh
# In the container as ~/.clincus/status: Claude Code's status line, if the user has none. It prints nothing, and
# keeps its stdin beside the transcripts. It never fails and never waits.
cd "$HOME/.claude/projects" 2>/dev/null && umask 077 || exit 0
timeout 2 head -c 100000 >.clincus-status.new && mv -f .clincus-status.new clincus-status.json
exit 0
