"""The hours without notifications: pure functions of a setting and a time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo

import clincus

CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
check_hours = clincus.matching(f"{CLOCK}-{CLOCK}", "write two times of a day, such as 22:00-07:00")
check_name = clincus.matching(r"[A-Za-z][\w+-]*(/[\w+-]+){0,2}", "write a time zone, such as Europe/Berlin")


def check_zone(value: object) -> str:
    """The name of a time zone that this machine knows. Raises Unfit."""
    name = str(check_name(value))
    if zone_of(name) is None:
        raise clincus.Unfit("this machine does not know that time zone: write one such as Europe/Berlin")
    return name


def zone_of(name: str) -> tzinfo | None:
    """The time zone of a name; None if this machine does not know it."""
    import zoneinfo  # late: it is wanted only where a zone is set

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def quiet_for(hours: str, zone: str, now: datetime) -> float:
    """The seconds until the present quiet hours end, 0 outside of them. `now` is aware.

    Without a zone, or with one that this machine no longer knows, the hours are those of this machine's clock.
    """
    if not hours:
        return 0.0
    begin, end = hours.split("-")
    here = now.astimezone(zone_of(zone) if zone else None)
    clock = here.strftime("%H:%M")
    is_quiet = begin <= clock < end if begin < end else clock >= begin or clock < end
    if not is_quiet or begin == end:
        return 0.0
    hour, minute = map(int, end.split(":"))
    day = here.date() + timedelta(days=1 if clock >= end else 0)
    # Made again from its parts, since the clock may be changed in between.
    over = datetime(day.year, day.month, day.day, hour, minute, tzinfo=here.tzinfo if zone else None)
    return max(1.0, (over.astimezone(timezone.utc) - now.astimezone(timezone.utc)).total_seconds())
