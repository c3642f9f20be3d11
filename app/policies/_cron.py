"""Moments of the calendar: cron expressions of five fields, parsed by a library that knows about summer time."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

_ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001  # only to see whether an expression can be read


def _check(expression: str) -> str:
    try:
        CronSim(expression, _ANY_TIME)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is no cron expression of five fields ({error})") from None
    return expression


Cron = Annotated[str, AfterValidator(_check), Field(max_length=200, examples=["0 3 * * *"])]


def moments(expression: str, after: datetime) -> Iterator[datetime]:
    """The moments that an expression names after this one, in its time zone; none where it names none in 50 years."""
    return CronSim(expression, after)


def names(expression: str, moment: datetime) -> bool:
    """Whether an expression names the minute of this moment, in its time zone."""
    minute = moment.replace(second=0, microsecond=0)
    return next(moments(expression, minute - timedelta(minutes=1)), None) == minute
