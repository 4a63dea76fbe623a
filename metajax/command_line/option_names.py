"""The library's sentences, which name arguments of Python, in the words of who types a command."""

import dataclasses
import re
from typing import Any

_QUOTED = r"(?<!\w)'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""


def as_typed(sentence: str, verb: Any) -> str:
    """The sentence with the verb's options in it as they are typed; what is quoted stays as it is.

    >>> from metajax.command_line.train import Train
    >>> as_typed("inner_rate=0.1; expected None: it compares", Train("maml", "run"))
    '--inner-rate 0.1; leave it out: it compares'

    Args:
      sentence: of a check: what was given, what is expected, what to do.
      verb: the record of its arguments; those with a default are options.
    """
    fields = dataclasses.fields(verb)
    options = [each.name for each in fields if each.default is not dataclasses.MISSING]
    names = "|".join(sorted(options, key=len, reverse=True))
    # Words of one part, `seed` say, are English, too.
    bare = "|".join(name for name in options if "_" in name) or "(?!)"
    parts = re.compile(
        rf"{_QUOTED}|\bexpected (?P<without>{names})=None\b|(?<![\w.-])(?P<given>{names})="
        rf"|(?<![\w./-])(?P<bare>{bare})(?![\w./-])|(?P<none>\bexpected None\b)|(?P<or>, or None\b)"
    )

    def typed(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "without":
                return f"leave {_option(found['without'])} out"
            case "given":
                return f"{_option(found['given'])} "
            case "bare":
                return _option(found["bare"])
            case "none":
                return "leave it out"
            case "or":
                return ""
        return found[0]

    return parts.sub(typed, sentence)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
