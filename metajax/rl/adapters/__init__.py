"""From an environment of somebody's library to an `Environment`: one file a library."""
