"""The command `metajax`, a file a verb."""
