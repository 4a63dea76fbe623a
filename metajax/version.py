"""The library's version, which its files tell."""

VERSION = "0.1.0"
