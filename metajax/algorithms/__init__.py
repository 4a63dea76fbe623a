"""The algorithms, one file a paper.

Their factories are names of `metajax`, by the list in `public_names`. They are not repeated here,
so that `metajax.algorithms.maml` is the file and `metajax.maml` the factory.
"""
