"""Durations in ISO 8601, as far as their length is fixed: weeks, days, hours, minutes and seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

__all__ = ["duration_text", "parsed_duration"]

_AMOUNT: Final = r"[0-9]+(?:[.,][0-9]+)?"
_DURATION: Final = re.compile(
    rf"(?P<sign>[+-])?P(?=.)(?:(?P<weeks>{_AMOUNT})W)?(?:(?P<days>{_AMOUNT})D)?"
    rf"(?:T(?=.)(?:(?P<hours>{_AMOUNT})H)?(?:(?P<minutes>{_AMOUNT})M)?(?:(?P<seconds>{_AMOUNT})S)?)?"
)


def parsed_duration(text: str) -> timedelta:
    """Read a duration such as `PT1H30M`.

    Raises:
        ValueError: it is none.
        OverflowError: it is too long for a `timedelta`.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    amounts = found.groupdict()
    sign = -1 if amounts.pop("sign") == "-" else 1
    return sign * timedelta(
        **{unit: float(amount.replace(",", ".")) for unit, amount in amounts.items() if amount}
    )


def duration_text(duration: timedelta) -> str:
    """Write a duration, in days at most."""
    if duration < timedelta():
        return f"-{duration_text(-duration)}"
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{duration.microseconds:06}".rstrip("0.")
    times = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    times += f"{seconds}{fraction}S" if seconds or fraction else ""
    days = f"{duration.days}D" if duration.days else ""
    return f"P{days}T{times}" if times else f"P{days or 'T0S'}"
