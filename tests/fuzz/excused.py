"""Public arguments without a row, and why."""

_FLAX = "a Flax module: its attributes are Flax's, and the functions that make models check them"
_MADE = "made by a function that checks"
_WHOLE = {
    "metajax.data.LakeRuns": _MADE,
    "metajax.data.Augmentation": _MADE,
    "metajax.data.HostEpisodes": _MADE,
    "metajax.data.ImageEpisodes": _MADE,
    "metajax.data.IterableEpisodes": _MADE,
    "metajax.models.BatchStatistics": _FLAX,
    "metajax.models.ConvNet": _FLAX,
    "metajax.models.MLP": _FLAX,
    "metajax.models.RelationEncoder": _FLAX,
    "metajax.models.RelationModule": _FLAX,
    "metajax.runs.Run": _MADE,
    "metajax.parallel.to_host": "takes any pytree",
    "metajax.Model.sharing": "asks the model's own function",
    "metajax.Backward.scan": "jax.lax.scan's arguments",
    "metajax.pictures.Look.seen": "pictures that were read",
}
_PROTOCOL = "a protocol: metajax.rl.Gaussian and Categorical have rows"

_OF_ITERABLES = "called by train and evaluate alone"
_ALONE = {
    "metajax.Model.apply": {"params": "the model's own function says what they are"},
    "metajax.apply_queries": {"params": "the model's own function says what they are"},
    "metajax.rl.Policy.over_steps": {"params": "the policy's own function says what they are"},
    "metajax.data.ImageEpisodes.at": {"index": "may be traced"},
    "metajax.data.HostEpisodes.at": {"index": "may be traced"},
    "metajax.data.HostEpisodes.fetch": {"indices": "from evaluate"},
    "metajax.models.kernels.convolution": dict.fromkeys(
        (
            "window_strides",
            "padding",
            "lhs_dilation",
            "rhs_dilation",
            "dimension_numbers",
            "feature_group_count",
            "precision",
        ),
        "as Flax passes it",
    ),
}


def reason(name: str, argument: str) -> str | None:
    """Why an argument has no row; None where there is no reason."""
    whole = _WHOLE.get(name)
    for group, why in (
        ("metajax.data.IterableEpisodes.", _OF_ITERABLES),
        ("metajax.models.BatchStatistics.", _FLAX),
        ("metajax.rl.Distribution.", _PROTOCOL),
    ):
        if name.startswith(group):
            whole = why
    return whole or _ALONE.get(name, {}).get(argument)
