"""The times that must fit together, in seconds, with the reasons. tests/unit/test_agent_times.py holds them to it.

Each side of an inequality below is a time that something takes at most, or is waited for at least.
"""

from __future__ import annotations

# -- Looks

SLOW_LOOK = 3.5  # between two looks at a tool that is not at rest
LOOK = 0.5  # that a look takes
DRAWING = 2.0  # that a screen may lag behind a hook
LAGGING = 5.0  # the same on a busy host, where the screen only lacks what shows that the tool works, or its question
UNDRAWN = 10.0  # the same if the screen lacks the prompt that a hook has reported
SOON = 0.5  # between looks at a tool whose hooks tell of an end that its screen does not show yet
AGAIN = 0.2  # behind DRAWING, before the look that sees the screen as it is then

# -- Hooks

HOOK_TAKES = 5.0  # `alarm` of guest/hook.sh: a hook that takes longer tells nothing
# The same hook, told twice. Longer than one hook takes, since both begin at the same time.
REPEATED = 5.0
# For so long a hook may come that tells of a turn which a look has seen begin. Longer than a hook takes and the look
# that hears of it comes.
LATE = 10.0

# -- Calls

# A state must last so long before a person is called. `done` must outlast the screen that shows that the tool goes on
# (DRAWING, and the look behind it); a question the screen that shows that it was answered at once (LAGGING).
# clincus_features/notify/news.py has the same two, as no feature imports another.
DWELL_DONE = 4.0
DWELL_WAITING = 6.0

# -- The life of a tool

START_WITHIN = 120.0  # that a tool may take to show something that is known
RESUMING = 20.0  # between the start of a container and the start of its tool
STUCK_AFTER = 300.0  # without a movement
