"""How the command ends, as a number for scripts."""

WELL = 0
WRONG = 1
"""What was given is wrong; a sentence on standard error says what."""
USAGE = 2
"""The arguments are none that the command has."""
SOME_UNREAD = 3
"""Some pictures could not be read; the others were answered."""
BUG = 70
"""A mistake of the library: the traceback is shown. sysexits.h calls it EX_SOFTWARE."""
INTERRUPTED = 130
"""Ctrl-C, as shells number it: 128 and the signal's number."""
PIPE_CLOSED = 141
"""Whoever read the results went away, `head` say; nothing is said."""
TERMINATED = 143
"""SIGTERM."""
