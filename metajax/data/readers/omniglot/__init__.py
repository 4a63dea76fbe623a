"""Omniglot, from its official files."""
