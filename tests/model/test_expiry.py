"""Parsing and formatting of timestamps and expiries."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.model.expiry import (
    NEVER,
    ExpiresAfter,
    ExpiresAt,
    ExpiresNever,
    format_timestamp,
    parse_expiry,
    parse_timestamp,
    resolve_expiry,
)

pytestmark = pytest.mark.fast

START = datetime(2026, 11, 23, 4, 0, 0, 987_654, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "hours"),
    [("36h", 36), ("90d", 2160), ("12w", 2016), ("P90D", 2160), ("PT36H", 36), ("P2W", 336)]
    + [("P1DT12H", 36), ("01d", 24)],
)
def test_a_duration_is_counted_from_the_start_in_whole_seconds(text: str, hours: int) -> None:
    """Hours, days and weeks, short or ISO, are exact lifetimes from the second of the start."""
    expiry = parse_expiry(text)
    assert expiry == ExpiresAfter(timedelta(hours=hours), text)
    assert resolve_expiry(expiry, START) == START.replace(microsecond=0) + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("2027-06-30", datetime(2027, 6, 30, tzinfo=UTC)),
        ("2027-06-30T12:00:00Z", datetime(2027, 6, 30, 12, tzinfo=UTC)),
        ("2027-06-30 12:00:00z", datetime(2027, 6, 30, 12, tzinfo=UTC)),
        ("2027-06-30T12:00:00.999+02:00", datetime(2027, 6, 30, 10, tzinfo=UTC)),
        ("2027-06-30T12:00+0200", datetime(2027, 6, 30, 10, tzinfo=UTC)),
    ],
)
def test_a_fixed_expiry_is_in_utc_and_in_whole_seconds(text: str, timestamp: datetime) -> None:
    """A bare date is the start of that day in UTC; offsets are converted, fractions dropped."""
    assert parse_expiry(text) == ExpiresAt(timestamp, text)
    assert resolve_expiry(parse_expiry(text), START) == timestamp


def test_never_is_the_lifetime_that_twenty_uses_for_it() -> None:
    """`never` is 36 500 days, as in legacy-0.60 `910-list-detect`."""
    assert parse_expiry("never") == ExpiresNever()
    assert resolve_expiry(ExpiresNever(), START) - START.replace(microsecond=0) == NEVER


@pytest.mark.parametrize(
    "text",
    ["", "1y", "1m", "3 months", "P1M", "P1Y", "P", "PT", "0d", "P0D", "-1d", "1.5d", "90", "d"]
    + ["2027-13-01", "2027-02-30", "2027-6-1", "2027-06-30T12:00:00", "2027-06-30T25:00:00Z"]
    + ["tomorrow", "Never", "36501d", "99999999999999999999w", "٣d", "90d ", "0000-01-01"],
)
def test_an_invalid_expiry_is_refused_with_advice(text: str) -> None:
    """Months, years, zero, negatives and nonsense are refused with the text to write instead."""
    with pytest.raises(ValueError, match=r"write|not a valid date"):
        parse_expiry(text)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1)))  # noqa: DTZ001
def test_a_timestamp_is_the_same_after_formatting_and_parsing(timestamp: datetime) -> None:
    """A timestamp formatted to the second is parsed as the same second."""
    timestamp = timestamp.replace(microsecond=0, tzinfo=UTC)
    assert parse_timestamp(format_timestamp(timestamp)) == timestamp


@given(st.text(max_size=40))
def test_any_text_is_an_expiry_or_a_value_error(text: str) -> None:
    """No text makes the parsers fail in any other way."""
    with suppress(ValueError):
        assert parse_expiry(text).written == text
    with suppress(ValueError):
        assert parse_timestamp(text).tzinfo is UTC


def test_a_timestamp_keeps_its_milliseconds() -> None:
    """The milliseconds of servers are parsed, because runs recognize their own keys by them."""
    assert parse_timestamp("2031-01-01T00:00:00.417Z").microsecond == 417_000


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_timestamp_outside_the_calendar_is_refused(text: str) -> None:
    """An offset that leads out of the calendar is a ValueError, not an OverflowError."""
    with pytest.raises(ValueError, match="not a valid date and time"):
        parse_timestamp(text)


@pytest.mark.parametrize("offset", ["+00:60", "-00:99", "+24:00", "-2400", "+0060"])
def test_an_invalid_utc_offset_is_refused(offset: str) -> None:
    """Hours end at 23 and minutes at 59, in an expiry too."""
    for read in (parse_timestamp, parse_expiry):
        with pytest.raises(ValueError, match="invalid UTC offset: write one from") as raised:
            read(f"2027-06-30T12:00:00{offset}")
        assert offset in str(raised.value)
    assert parse_timestamp("2027-06-30T12:00:00+23:59") == datetime(2027, 6, 29, 12, 1, tzinfo=UTC)
