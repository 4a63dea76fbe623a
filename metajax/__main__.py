"""`python -m metajax`: the command `metajax`."""

from metajax.command_line.main import process

if __name__ == "__main__":
    process()
