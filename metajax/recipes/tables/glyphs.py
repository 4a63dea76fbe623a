"""The characters that the library brings, 28 px, 5-way 1-shot: in minutes on two weak cores.

Nobody published on them. Half of MAML's published filters are as accurate here, in less time.
"""

from typing import Literal

from metajax.data.episode_draws import Rotations
from metajax.query_batching import Batching
from metajax.recipes.records import Algorithm, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split


def _recipe(
    algorithm: Algorithm,
    network: Network,
    outer: Outer,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    rotations: Rotations = "classes",
    inner: Inner | None = None,
    test_steps: int = 0,
    test_batch_size: int | None = None,
    meta_batch: int = 1,
    query_batching: Batching = "separate",
    full_context: Literal["none", "zeros"] = "none",
) -> Recipe:
    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="glyphs",
            drawing=Drawing(Split("train"), ways, shots, queries, rotations),
            network=network,
            outer=outer,
            iterations=700,
            meta_batch=meta_batch,
            inner=inner,
            query_batching=query_batching,
            full_context=full_context,
        ),
        testing=Testing(
            Drawing(Split("test"), 5, 1, 15, rotations),
            episodes=600,
            steps=test_steps,
            batch_size=test_batch_size,
            query_batching=query_batching,
        ),
        source="chosen here, for minutes on two cores",
        variant="" if full_context == "none" else "fce",
    )


def _maml(
    algorithm: Algorithm,
    rate: float = 0.4,
    steps: int = 1,
    test_steps: int = 5,
    head_kernel_init: str = "lecun_normal",
) -> Recipe:
    return _recipe(
        algorithm,
        Network("strided", filters=32, head_kernel_init=head_kernel_init),
        Outer(3e-3, schedule="cosine"),
        rotations="tasks",
        inner=Inner(rate, steps),
        test_steps=test_steps,
        meta_batch=16,
    )


def _proto_maml(algorithm: Algorithm) -> Recipe:
    inner = Inner(0.02, 3)
    return _recipe(algorithm, _EMBEDDING, _ADAM, ways=20, inner=inner, test_steps=5)


_ADAM = Outer(1e-3, schedule="cosine")
_EMBEDDING = Network("embedding")
_REPTILE = _recipe(
    "reptile",
    Network("strided"),
    Outer(1.0, optimizer="sgd", schedule="linear"),
    shots=10,
    rotations="tasks",
    inner=Inner(1e-3, 5, optimizer="adam", batch_size=10),
    test_steps=50,
    test_batch_size=5,
    meta_batch=5,
)

RECIPES: tuple[Recipe, ...] = (
    _maml("maml"),
    _maml("fomaml"),
    # The head alone is cheap to adapt, and needs more steps.
    _maml("anil", steps=5, test_steps=10, head_kernel_init="truncated_normal(0.2)"),
    _maml("boil", rate=0.5, head_kernel_init="truncated_normal(0.2)"),
    # Rates learned for one step are not made for five.
    _maml("meta_sgd", test_steps=1),
    _REPTILE,
    _recipe("prototypical", _EMBEDDING, _ADAM, ways=30, query_batching="joint"),
    _recipe("matching", _EMBEDDING, _ADAM, ways=20),
    _recipe("matching", _EMBEDDING, _ADAM, ways=20, full_context="zeros"),
    _recipe(
        "ridge_head",
        _EMBEDDING,
        Outer(3e-3, schedule="cosine"),
        ways=20,
        query_batching="joint",
    ),
    _recipe("relation", Network("relation"), Outer(1e-3, schedule="cosine", clip=0.5), queries=15),
    _proto_maml("proto_maml"),
    _proto_maml("fo_proto_maml"),
)
