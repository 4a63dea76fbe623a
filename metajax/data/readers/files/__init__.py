"""Data sets that are image files: folders, and lists of them."""
