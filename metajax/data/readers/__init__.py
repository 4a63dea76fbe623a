"""Data sets as other programs keep them: folders, lists, Omniglot's zips, TFDS."""
