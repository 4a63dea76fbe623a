"""From a module of somebody's framework to a `Model`: one file a framework."""
