"""The times of looks, hooks and calls fit together."""

from __future__ import annotations

import re

import clincus
from clincus_features.agents import times
from clincus_features.notify import news


def test_a_call_waits_until_the_screen_has_shown_that_the_tool_goes_on():
    assert times.DWELL_DONE > times.DRAWING + times.AGAIN + times.LOOK


def test_a_call_waits_until_the_screen_has_shown_that_the_question_was_answered():
    assert times.DWELL_WAITING > times.LAGGING + times.AGAIN + times.LOOK


def test_the_notifier_waits_as_long_as_the_table_says():
    assert (news.DWELL_WAITING, news.DWELL) == (times.DWELL_WAITING, times.DWELL_DONE)


def test_a_hook_ends_as_soon_as_the_table_says():
    assert re.findall(r"alarm ([\d.]+);", clincus.packaged_text("guest/hook.sh")) == [f"{times.HOOK_TAKES:g}"]


def test_a_hook_that_is_told_twice_may_take_its_time_at_the_second_time():
    assert times.REPEATED >= times.HOOK_TAKES


def test_a_hook_that_comes_late_is_waited_for_as_long_as_it_may_take():
    assert times.LATE > times.HOOK_TAKES + times.SLOW_LOOK + times.LOOK


def test_a_slow_screen_is_given_more_time_than_a_fast_one():
    assert times.LAGGING > times.DRAWING + times.AGAIN


def test_a_tool_that_works_is_looked_at_often_before_it_counts_as_stuck():
    assert times.STUCK_AFTER > 10 * times.SLOW_LOOK
