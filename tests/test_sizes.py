"""Sizes in and out.

The whole grammar of api.md, "Bytes in", and what the kernel would have made of the rest.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.sizes import PAGE_BYTES, format_size, page_ceil, page_floor, parse_limit, parse_size


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (419430400, 419430400),
        (2**63 - 1, 2**63 - 1),
        ("0", 0),
        ("7", 7),
        ("4096", 4096),
        ("400M", 419430400),
        ("400m", 419430400),
        ("400Mi", 419430400),
        ("400MiB", 419430400),
        ("400mib", 419430400),
        ("1K", 2**10),
        ("1KiB", 2**10),
        ("1G", 2**30),
        ("1T", 2**40),
        ("1P", 2**50),
        ("0P", 0),
        ("8191P", 8191 * 2**50),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_size_is_an_integer_or_the_notation_of_the_kernel(value: object, size: int) -> None:
    assert parse_size(value) == size
    assert parse_limit(value) == size


@pytest.mark.parametrize("value", [None, "max"])
def test_no_limit_is_null_or_max(value: object) -> None:
    assert parse_limit(value) is None
    with pytest.raises(ValueError, match="a size is"):
        parse_size(value)


@pytest.mark.parametrize("value", [True, False, 1.0, 1.5, float("nan"), [], {}, b"4096", [4096]])
def test_a_size_is_nothing_but_an_integer_or_a_string(value: object) -> None:
    with pytest.raises(
        ValueError, match=r'^a size is an integer of bytes or a string such as "400M"$'
    ):
        parse_limit(value)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -(2**64),
        2**63,
        2**64,
        "9223372036854775808",
        "9999999999999999999",
        "8192P",
        "9999999999999999999P",
    ],
)
def test_a_size_is_neither_negative_nor_beyond_2_to_the_63rd(value: object) -> None:
    with pytest.raises(ValueError, match=r"not negative and below 2\^63 bytes"):
        parse_limit(value)


@pytest.mark.parametrize("value", ["1MB", "400mb", "1kB", "2GB", "3TB", "4PB", "5EB"])
def test_a_suffix_that_could_be_decimal_is_asked_about(value: str) -> None:
    with pytest.raises(ValueError, match=r"can mean powers of 1000 or of 1024: write .iB"):
        parse_limit(value)


@pytest.mark.parametrize(
    "value",
    [
        "",  # the kernel: no change
        "\n",  # the kernel: 0, which on v2 kills every process of the group
        "K",  # the kernel: 0
        "010M",  # the kernel: 8 MiB
        "0x10M",  # the kernel: 16 MiB
        "16E",  # the kernel: 0
        "00",
        "-1",
        "+5M",
        "-5M",
        "1.5G",
        "1e6",
        "5 M",
        " 5M",
        "5M ",
        "5M\n",
        "5M5",
        "5MM",
        "5MiBB",
        "5iB",
        "5B",
        "1_000",
        "1,000",
        "abc",
        "MAX",
        "Max",
        "unlimited",
        "5M\0",
        "\N{ARABIC-INDIC DIGIT FOUR}M",  # a digit, but no ASCII one
        "5\N{KELVIN SIGN}",  # its lower case is k
        "99999999999999999999999",
        "9" * 100_000,
    ],
)
def test_what_people_and_kernels_read_differently_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a size is decimal digits and one of K M G T P"):
        parse_limit(value)


@given(st.integers(0, 2**63 - 1))
def test_every_integer_means_itself_with_and_without_quotes(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.text())
def test_any_text_is_a_size_in_range_or_a_value_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 <= size < 2**63


@given(st.integers(0, 2**63 - 1))
def test_the_floor_of_a_size_is_its_whole_pages(size: int) -> None:
    assert page_floor(size) % PAGE_BYTES == 0
    assert 0 <= size - page_floor(size) < PAGE_BYTES


@pytest.mark.parametrize(
    ("size", "floor"),
    [(0, 0), (1, 0), (PAGE_BYTES - 1, 0), (PAGE_BYTES, PAGE_BYTES), (PAGE_BYTES + 1, PAGE_BYTES)],
)
def test_a_size_is_rounded_down_to_pages(size: int, floor: int) -> None:
    assert page_floor(size) == floor


@given(st.integers(0, 2**63 - 1))
def test_the_whole_pages_that_hold_a_size_are_its_floor_or_one_more(size: int) -> None:
    assert page_ceil(size) == page_floor(size) + (0 if page_floor(size) == size else PAGE_BYTES)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (63283200, "60.4 MiB"),
        (33554432, "32 MiB"),
        (2**40, "1 TiB"),
        (2**63 - 1, "8192 PiB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit_that_it_fills(size: int, text: str) -> None:
    assert format_size(size) == text
