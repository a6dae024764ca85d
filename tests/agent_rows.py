"""Which test sees which state of which real tool: the table that tests/unit/test_agent_rows.py holds complete.

A row is a state with a reason, as docs/api.md lists them. A cell is a test, `module::function` below tests/incus. Where
a tool has no such state, the cell says why.
"""

from __future__ import annotations

from collections.abc import Mapping

TOOLS = ("claude", "copilot", "opencode", "codex", "gemini")
Cells = Mapping[str, str]


def claude(test: str) -> str:
    """A test of tests/incus/test_agents.py."""
    return f"test_agents::test_{test}"


def others(test: str) -> str:
    """A test of tests/incus/test_more_tools.py."""
    return f"test_more_tools::test_{test}"


COPILOT = claude("copilot_tells_the_same")
COPILOT_DIALOGS = claude("copilot_tells_of_its_dialogs_and_starts_again_by_its_name")
COPILOT_FAILURES = claude("why_copilot_has_failed_is_told")
OPENCODE = claude("opencode_tells_the_same")
OPENCODE_PANELS = claude("opencode_tells_of_a_plan_of_what_a_person_opens_and_of_its_end")
OPENCODE_FAILURES = claude("why_opencode_has_failed_is_told")
TURNS = others("a_tool_without_hooks_tells_what_it_does_and_goes_on_at_a_resume")
ASKS = others("a_tool_without_hooks_that_asks_waits_and_is_answered")
FAILURES = others("why_a_tool_without_hooks_has_failed_is_told")
END = others("a_tool_without_hooks_is_stuck_ends_crashes_and_is_started_again")
PANELS = others("what_a_person_opens_in_a_tool_without_hooks_is_told")
LOGIN = others("a_tool_without_hooks_and_without_an_account_waits_for_a_login")


def both(test: str) -> Cells:
    """The cells of Codex and Gemini CLI."""
    return {"codex": test, "gemini": test}


ROWS: Mapping[tuple[str, str], Cells] = {
    ("starting", ""): {
        "claude": claude("a_tool_starts_before_it_takes_a_prompt"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(TURNS),
    },
    ("working", ""): {
        "claude": claude("a_person_who_types_while_it_works_does_not_end_its_work"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(TURNS),
    },
    ("working", "retry"): {
        "claude": claude("a_retry_is_told_with_the_error"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        "codex": others("codex_without_a_network_waits_for_one"),
        "gemini": "Its screen says no more than that it works.",
    },
    ("waiting", "question"): {
        "claude": claude("a_question_is_told_with_its_choices_until_it_is_answered"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(others("a_question_of_a_tool_without_hooks_is_told_and_answered")),
    },
    ("waiting", "plan"): {
        "claude": claude("a_plan_can_be_read_whole"),
        "copilot": COPILOT_DIALOGS,
        "opencode": OPENCODE_PANELS,
        **both(others("a_plan_of_a_tool_without_hooks_is_told_and_answered")),
    },
    ("waiting", "permission"): {
        "claude": claude("a_permission_is_told_and_given"),
        "copilot": COPILOT_DIALOGS,
        "opencode": OPENCODE,
        **both(ASKS),
    },
    ("waiting", "dialog"): {
        "claude": claude("a_dialog_is_told_with_its_choices_and_answered"),
        "copilot": COPILOT_DIALOGS,
        "opencode": OPENCODE_PANELS,
        **both(PANELS),
    },
    ("waiting", "login"): {
        "claude": claude("without_an_account_it_has_failed_and_a_login_waits"),
        "copilot": COPILOT_DIALOGS,
        "opencode": OPENCODE_PANELS,
        **both(LOGIN),
    },
    ("done", ""): {
        "claude": claude("a_turn_is_done_until_somebody_has_seen_it"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(TURNS),
    },
    ("idle", ""): {
        "claude": claude("a_turn_is_done_until_somebody_has_seen_it"),
        "copilot": COPILOT,
        "opencode": OPENCODE_PANELS,
        **both(TURNS),
    },
    ("idle", "interrupted"): {
        "claude": claude("a_question_is_told_with_its_choices_until_it_is_answered"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(TURNS),
    },
    ("failed", "rate_limit"): {
        "claude": claude("what_failed_is_told_with_its_reason"),
        "copilot": COPILOT_FAILURES,
        "opencode": "It tries for ever.",
        "codex": FAILURES,
        "gemini": "Not seen yet: it tries for minutes.",
    },
    ("failed", "auth"): {
        "claude": claude("what_failed_is_told_with_its_reason"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(TURNS),
    },
    ("failed", "billing"): {
        "claude": claude("what_failed_is_told_with_its_reason"),
        "copilot": COPILOT_FAILURES,
        "opencode": OPENCODE_FAILURES,
        **both(FAILURES),
    },
    ("failed", "overloaded"): {
        "claude": claude("what_failed_is_told_with_its_reason"),
        "copilot": COPILOT_FAILURES,
        "opencode": "It tries for ever.",
        "codex": FAILURES,
        "gemini": "Not seen yet: it tries for minutes.",
    },
    ("failed", "server_error"): {
        "claude": claude("what_failed_is_told_with_its_reason"),
        "copilot": COPILOT_FAILURES,
        "opencode": "It tries for ever.",
        "codex": FAILURES,
        "gemini": "Not seen yet: it tries for minutes.",
    },
    ("failed", "network"): {
        "claude": claude("without_a_network_it_has_failed_by_that"),
        "copilot": claude("copilot_without_a_network_has_failed_by_that"),
        "opencode": "It tries for ever.",
        "codex": "It waits for the network, which is told as a retry.",
        "gemini": "Not seen yet: it tries for minutes.",
    },
    ("failed", "other"): {
        "claude": claude("what_fails_at_once_is_told_with_its_reason"),
        "copilot": COPILOT,
        "opencode": OPENCODE_FAILURES,
        **both(FAILURES),
    },
    ("stuck", ""): {
        "claude": claude("work_that_stalls_is_stuck_after_five_minutes"),
        "copilot": COPILOT_DIALOGS,
        "opencode": OPENCODE_PANELS,
        **both(END),
    },
    ("ended", ""): {
        "claude": claude("a_tool_that_a_person_starts_again_by_its_name_is_watched_again"),
        "copilot": COPILOT,
        "opencode": OPENCODE_PANELS,
        **both(END),
    },
    ("ended", "crashed"): {
        "claude": claude("a_tool_that_is_killed_leaves_a_shell"),
        "copilot": COPILOT,
        "opencode": OPENCODE,
        **both(END),
    },
    ("unknown", ""): dict.fromkeys(TOOLS, "Rules know it; unit/test_agent_state.py has what shows nothing known."),
    ("none", ""): {
        "claude": claude("a_tool_that_was_left_before_its_first_prompt_starts_afresh_and_nothing_is_deleted"),
        "copilot": COPILOT_FAILURES,
        "opencode": OPENCODE_FAILURES,
        **both(TURNS),
    },
}
