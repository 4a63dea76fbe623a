import io

from metajax.command_line.output import Output
from metajax.command_line.unread_pictures import warn_of_unread


def test_the_first_are_named_and_the_others_counted():
    told = io.StringIO()
    out = Output(stdout=io.StringIO(), stderr=told)
    warn_of_unread({f"{row}.png": "damaged" for row in range(12)}, "was left out", out)
    lines = told.getvalue().splitlines()
    assert lines[0] == "warning: '0.png' was left out: damaged"
    assert lines[10:] == ["warning: and 2 more; --json names all of them"]
