"""From an environment of somebody's library to an `Environment`: `brax.py`, `gymnax.py`."""
