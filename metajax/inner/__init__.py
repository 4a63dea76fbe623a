"""A task's own optimisation, and how it is differentiated."""
