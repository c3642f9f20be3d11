"""Cron expressions of five fields in time zones, parsed by a library that knows summer time."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

_ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001  # only to check an expression
_MINUTE = timedelta(minutes=1)


def _check(expression: str) -> str:
    fields = len(expression.split())
    if fields != 5:  # with a sixth the library would read seconds
        raise ValueError(f"{expression!r} is no cron expression of five fields (it has {fields})")
    try:
        first = next(CronSim(expression, _ANY_TIME), None)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is no cron expression of five fields ({error})") from None
    if first is None:
        raise ValueError(f"{expression!r} names no moment in 50 years")
    return expression


def _check_timezone(name: str) -> str:
    if name not in _timezones():
        raise ValueError(f"{name!r} is no time zone of the IANA list, such as Europe/Berlin or UTC")
    return name


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _zone(name: str) -> ZoneInfo:
    """Load a time zone once: the library's own cache has room for eight."""
    return ZoneInfo(name)


# the length is checked first: the library recurses once for each slash
Cron = Annotated[str, Field(max_length=200, examples=["0 3 * * *"]), AfterValidator(_check)]
Timezone = Annotated[str, AfterValidator(_check_timezone), Field(examples=["UTC", "Europe/Berlin"])]


def next_moment(expression: str, timezone: str, after: datetime) -> datetime | None:
    """Return the first moment, in UTC, that an expression names after this (aware) one.

    None where it names none in 50 years. As in Debian's cron, a fixed hour that summer time skips
    is made up for when the clock has gone forward, and one that comes twice counts once; an hour
    with a star goes by local time.
    """
    moments = (
        moment.astimezone(UTC) for moment in CronSim(expression, after.astimezone(_zone(timezone)))
    )
    # in the second half of an hour that comes twice, the library begins with the first half again
    return next((moment for moment in moments if moment > after), None)


def names(expression: str, timezone: str, moment: datetime) -> bool:
    """Return whether an expression names the local minute of an (aware) moment in a time zone."""
    shown = moment.astimezone(_zone(timezone)).replace(tzinfo=None, second=0, microsecond=0)
    return next(CronSim(expression, shown - _MINUTE), None) == shown
