"""The times that must fit together, in seconds, with the reasons. tests/unit/test_agent_times.py checks them.

In the inequalities below, a name is a longest duration or a shortest wait.
"""

from __future__ import annotations

# -- Looks

SLOW_LOOK = 3.5  # between two looks at a tool that is not at rest
LOOK = 0.5  # the duration of a look
DRAWING = 2.0  # by which a screen may lag behind a hook
LAGGING = 5.0  # the same on a busy host, if the screen only fails to show the tool's work, or its question
UNDRAWN = 10.0  # the same if the screen lacks the prompt that a hook has reported
SOON = 0.5  # between looks at a tool whose hooks report an end that its screen does not show yet
AGAIN = 0.2  # after DRAWING, before the look that sees the screen of that time

# -- Hooks

HOOK_TAKES = 5.0  # `alarm` of guest/hook.sh: a hook that takes longer reports nothing
# The same hook, reported twice. Longer than one hook takes, since both begin at the same time.
REPEATED = 5.0
# The time in which a hook may report a turn whose beginning a look has seen. Longer than a hook takes plus the look
# that reads its report.
LATE = 10.0

# -- Calls

# A state must last this long before a person is notified. `done` must outlast the screen that shows that the tool
# continues (DRAWING, and the look after it); a question must outlast the screen that shows that it was answered at once
# (LAGGING).
# clincus_features/notify/news.py has the same two, since no feature imports another.
DWELL_DONE = 4.0
DWELL_WAITING = 6.0

# -- The life of a tool

START_WITHIN = 120.0  # in which a tool may show something known
RESUMING = 20.0  # between the start of a container and the start of its tool
STUCK_AFTER = 300.0  # without a movement
