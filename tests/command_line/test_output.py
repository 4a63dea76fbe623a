import io
import json

import pytest

from metajax.command_line.output import Output, printable


class _Streams:
    def __init__(self, terminal: bool = False, **options):
        self.results, self.rest = io.StringIO(), io.StringIO()
        self.rest.isatty = lambda: terminal
        self.out = Output(stdout=self.results, stderr=self.rest, **options)

    @property
    def told(self) -> tuple[str, str]:
        return self.results.getvalue(), self.rest.getvalue()


def test_people_read_text_and_programs_one_object():
    for as_json, expected in ((False, "hello\na  b\n1  x\n"), (True, '{"a": 1}\n')):
        streams = _Streams(as_json=as_json)
        streams.out.say("hello")
        streams.out.table([{"a": 1, "b": "x"}])
        streams.out.result({"a": 1})
        assert streams.told == (expected, "")


def test_a_table_aligns_numbers_to_the_right_and_text_to_the_left():
    streams = _Streams()
    streams.out.table(
        [
            {"class": "rose", "shots": 5, "accuracy": 0.98765},
            {"class": "百合", "shots": 12, "accuracy": None},
        ]
    )
    assert streams.told[0] == (
        "class  shots  accuracy\nrose       5    0.9877\n百合      12         -\n"
    )


def test_a_table_has_a_line_a_row_whatever_a_name_holds():
    streams = _Streams()
    streams.out.table([{"a": "x\ny\r\nz", "b": "1"}, {"a": "e\u0301e\u0301", "b": "2"}])
    assert streams.told[0] == "a      b\nx y z  1\ne\u0301e\u0301     2\n"


def test_no_row_is_no_table():
    streams = _Streams()
    streams.out.table([])
    assert streams.told == ("", "")


def test_warnings_and_errors_are_on_the_other_stream():
    streams = _Streams()
    streams.out.warn("few pictures")
    streams.out.fail("no such folder")
    assert streams.told == ("", "warning: few pictures\nerror: no such folder\n")


def test_an_error_is_the_object_of_json():
    streams = _Streams(as_json=True)
    streams.out.fail("no such folder")
    assert json.loads(streams.told[0]) == {"error": "no such folder"}
    assert streams.told[1] == "error: no such folder\n"


def test_a_second_object_is_a_mistake_and_an_error_after_one_adds_none():
    streams = _Streams(as_json=True)
    streams.out.result({"a": 1})
    with pytest.raises(RuntimeError, match="twice"):
        streams.out.result({"a": 2})
    streams.out.fail("too late")
    assert streams.told == ('{"a": 1}\n', "error: too late\n")


def test_json_is_ascii_and_has_no_nan():
    streams = _Streams(as_json=True)
    with pytest.raises(ValueError):
        streams.out.result({"a": float("nan")})
    streams = _Streams(as_json=True)
    streams.out.result({"class": "é", "path": "\udcff"})
    assert streams.told[0].isascii()
    assert json.loads(streams.told[0]) == {"class": "é", "path": "\udcff"}


def test_a_bar_is_shown_on_a_terminal_alone():
    assert _Streams(terminal=True).out.progress
    assert not _Streams(terminal=False).out.progress
    assert not _Streams(terminal=True, quiet=True).out.progress


def test_names_do_not_steer_the_terminal():
    assert printable("fdp\u202etxt.exe\u2066") == "fdp\ufffdtxt.exe\ufffd"
    assert printable("a\x1b[2Jb\rc\td\x9b\ne") == "a�[2Jb�c�d�\ne"
