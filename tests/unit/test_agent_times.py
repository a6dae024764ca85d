"""The times of looks, hooks and calls fit together."""

from __future__ import annotations

import re

import clincus
from clincus_features.agents import times
from clincus_features.notify import news


def test_a_call_waits_until_the_screen_has_shown_what_goes_on():
    assert times.DWELL_DONE > times.DRAWING + times.AGAIN + times.LOOK
    assert times.DWELL_WAITING > times.LAGGING + times.AGAIN + times.LOOK
    assert times.LAGGING > times.DRAWING + times.AGAIN


def test_notifier_and_hook_take_their_times_from_the_table():
    assert (news.DWELL_WAITING, news.DWELL) == (times.DWELL_WAITING, times.DWELL_DONE)
    assert re.findall(r"alarm ([\d.]+);", clincus.packaged_text("guest/hook.sh")) == [f"{times.HOOK_TAKES:g}"]


def test_a_hook_is_waited_for_as_long_as_it_may_take():
    assert times.REPEATED >= times.HOOK_TAKES
    assert times.LATE > times.HOOK_TAKES + times.SLOW_LOOK + times.LOOK


def test_a_tool_that_works_is_looked_at_often_before_it_counts_as_stuck():
    assert times.STUCK_AFTER > 10 * times.SLOW_LOOK
