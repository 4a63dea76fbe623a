"""The tables of recipes, a module a data set."""
