"""Log lines: one JSON object each, whatever is in them."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from shrinkd import logs
from shrinkd.logs import JsonLines, TextLines


def line(
    message: str, *arguments: object, fault: BaseException | None = None, **extra: object
) -> dict[str, object]:
    exc_info = (type(fault), fault, None) if fault else None
    record = logging.LogRecord(
        "shrinkd", logging.WARNING, __file__, 1, message, arguments, exc_info
    )
    record.__dict__.update(extra)
    text = JsonLines().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_a_line_has_its_time_its_level_and_its_message() -> None:
    found = line("%d shrinks", 3)
    assert (found["level"], found["logger"], found["message"]) == (
        "warning",
        "shrinkd",
        "3 shrinks",
    )
    assert str(found["time"]).endswith("Z")


def test_what_a_client_sent_breaks_no_line() -> None:
    assert line("%s", "two\nlines\x00 \u2028 caf\xe9")["message"] == "two\nlines\x00 \u2028 caf\xe9"


def test_a_record_brings_its_fields_along() -> None:
    assert line("GET", fields={"request_id": "mine", "status": 200})["status"] == 200


def test_a_fault_is_told_within_its_line() -> None:
    assert "ZeroDivisionError" in str(line("broken", fault=ZeroDivisionError("why"))["exception"])


def test_a_line_of_a_request_has_its_id_also_from_a_thread_that_works_for_it() -> None:
    def answer() -> list[object]:
        logs.request_id.set("r-4711")
        with ThreadPoolExecutor(1) as workers:
            inside = workers.submit(copy_context().run, line, "in a thread").result()
        return [line("here")["request_id"], inside["request_id"]]

    assert copy_context().run(answer) == ["r-4711", "r-4711"]
    assert "request_id" not in line("outside")


def said(message: str, fault: BaseException | None = None) -> str:
    return TextLines().format(
        logging.LogRecord(
            "shrinkd",
            logging.WARNING,
            __file__,
            1,
            "%s",
            (message,),
            (type(fault), fault, None) if fault else None,
        )
    )


def test_a_line_for_people_is_one_line_and_nothing_that_their_terminal_obeys() -> None:
    text = said("a\033[2J\u202e\x9b\n2026-11-28 08:00:00,000 ERROR   forged")
    assert text.endswith("WARNING a\\x1b[2J\\u202e\\x9b\\x0a2026-11-28 08:00:00,000 ERROR   forged")


def test_a_fault_for_people_stands_on_lines_that_look_like_no_record() -> None:
    first, *rest = said(
        "broken", ValueError("a\033[2J\n2026-11-28 08:00:00,000 ERROR   forged")
    ).split("\n")
    assert first.endswith("broken")
    assert rest == ["    ValueError: a\\x1b[2J", "    2026-11-28 08:00:00,000 ERROR   forged"]


def test_a_line_of_json_is_printable_ascii() -> None:
    record = logging.LogRecord(
        "shrinkd", logging.INFO, __file__, 1, "%s", ("\x7f\x9b\u202e\ud800",), None
    )
    text = JsonLines().format(record)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["message"] == "\x7f\x9b\u202e\ud800"
