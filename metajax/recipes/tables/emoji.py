"""Emoji across designers, in colour, 36 px: every algorithm with the mini-ImageNet networks.

Nobody published on them. Settings are the published ones for mini-ImageNet where they fit; what
differs is chosen here: an emoji was drawn by at most eight designers, so that there are few queries
a class, Reptile trains on as many shots as it is tested with, and 20-way learners have 20 ways.
"""

from metajax.query_batching import Batching
from metajax.recipes.records import Algorithm, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split

_ADAM = Outer(1e-3, schedule="cosine")
_EMBEDDING = Network("embedding")
_MAX_POOL = Network(
    "max_pool",
    filters=48,
    use_scale=False,
    epsilon=1e-3,
    kernel_init="xavier_uniform",
    head_kernel_init="xavier_uniform",
)
_REPTILE = Network(
    "max_pool",
    filters=48,
    pool_padding="SAME",
    pool_first=True,
    epsilon=1e-3,
    kernel_init="xavier_uniform",
    head_kernel_init="xavier_uniform",
)


def _recipe(
    algorithm: Algorithm,
    ways: int,
    shots: int,
    *,
    network: Network = _EMBEDDING,
    train_ways: int | None = None,
    outer: Outer = _ADAM,
    inner: Inner | None = None,
    steps: int = 0,
    meta_batch: int = 1,
    query_batching: Batching = "joint",
    iterations: int = 5_000,
    normalize_support: bool = False,
) -> Recipe:
    # Of at most 7 designers, those of the support have drawn no query.
    queries = 3 if shots == 1 else 1

    def drawing(part: str, ways: int) -> Drawing:
        return Drawing(Split(part), ways, shots, queries, across_sources=True)

    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="emoji",
            drawing=drawing("train", train_ways or ways),
            network=network,
            outer=outer,
            iterations=iterations,
            meta_batch=meta_batch,
            inner=inner,
            query_batching=query_batching,
            pixels=36,
            normalize="support" if normalize_support else "both",
        ),
        testing=Testing(
            drawing("test", ways),
            episodes=1_000,
            steps=steps,
            query_batching=query_batching,
        ),
        source="chosen here, after the published settings for mini-ImageNet",
    )


def _of_cell(ways: int, shots: int) -> tuple[Recipe, ...]:
    by_steps = Inner(0.05, 5, adapts="but statistics")
    reptile_inner = Inner(1e-3, 8, optimizer="adam", batch_size=min(10, ways * shots))
    after_prototypes = Inner(0.02, 3, adapts="but statistics")
    gradients: tuple[Algorithm, ...] = ("maml", "fomaml")
    from_prototypes: tuple[Algorithm, ...] = ("proto_maml", "fo_proto_maml")
    return (
        *(
            _recipe(
                algorithm,
                ways,
                shots,
                network=_MAX_POOL,
                inner=by_steps,
                steps=10,
                meta_batch=4,
                query_batching="separate",
            )
            for algorithm in gradients
        ),
        _recipe(
            "reptile",
            ways,
            shots,
            network=_REPTILE,
            outer=Outer(1.0, optimizer="sgd", schedule="linear"),
            inner=reptile_inner,
            steps=50,
            meta_batch=5,
            query_batching="single",
        ),
        _recipe("prototypical", ways, shots, train_ways=30),
        _recipe(
            "relation",
            ways,
            shots,
            network=Network("relation"),
            outer=Outer(1e-3, schedule="cosine", clip=0.5, clip_modules=True),
            query_batching="separate",
        ),
        _recipe("matching", ways, shots, train_ways=20, normalize_support=True),
        *(
            _recipe(
                algorithm,
                ways,
                shots,
                inner=after_prototypes,
                steps=5,
                query_batching="support",
            )
            for algorithm in from_prototypes
        ),
    )


RECIPES: tuple[Recipe, ...] = tuple(
    recipe for ways, shots in ((5, 1), (5, 5), (20, 1), (20, 5)) for recipe in _of_cell(ways, shots)
)
