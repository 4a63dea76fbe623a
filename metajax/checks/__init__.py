"""Errors for a user's slips, raised before anything is computed.

Each check says what was got, what was expected and what to do. Checks of values (labels) run only
where the values are known, that is outside a compiled program.
"""
