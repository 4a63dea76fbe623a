"""Why accuracy is at chance: figures, and what of them looks wrong."""
