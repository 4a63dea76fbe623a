"""mini-ImageNet, 84 px, in Ravi and Larochelle's split: 5-way cells, as founding papers have them.

Settings are those of the authors' code where there is one; their inner rates belong to summed
losses, these to the mean. Sources are those of Omniglot's recipes, and:

- The split, and Matching Networks' numbers in it: Ravi and Larochelle 2017, table 1.
- PaddleFSL: https://github.com/tata1661/FSL-Mate, the README of its image classification, which
  also cites learn2learn's numbers.
"""

from metajax.recipes.records import Algorithm, Number, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split

SHOTS = (1, 5)

_TRAIN, _TEST = Split("train"), Split("test")
_MAML_PAPER = "Finn et al. 2017, table 1"
_REPTILE_PAPER = "Nichol et al. 2018, table 1"
_LEARN2LEARN, _PADDLE = "learn2learn", "PaddleFSL's README"

_MAML_NETWORK = Network(
    "max_pool",
    filters=32,
    use_scale=False,
    epsilon=1e-3,
    kernel_init="xavier_uniform",
    head_kernel_init="xavier_uniform",
)
_MAML_NUMBERS = {1: Number(48.70, _MAML_PAPER, 1.84), 5: Number(63.11, _MAML_PAPER, 0.92)}
_MAML_AGAIN = {1: Number(48.3, _LEARN2LEARN), 5: Number(65.4, _LEARN2LEARN)}
_FOMAML_NUMBERS = {1: Number(48.07, _MAML_PAPER, 1.75), 5: Number(63.15, _MAML_PAPER, 0.91)}
_FOMAML_AGAIN = {1: Number(49.81, _PADDLE, 1.78), 5: Number(64.21, _PADDLE, 1.33)}


def _maml(algorithm: Algorithm, shots: int) -> Recipe:
    exact = algorithm == "maml"
    queries = 15
    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="mini_imagenet",
            drawing=Drawing(_TRAIN, 5, shots, queries),
            network=_MAML_NETWORK,
            inner=Inner(0.05, 5, adapts="but statistics"),
            # Theirs is 10 for the queries' losses added up and divided by the shots.
            outer=Outer(1e-3, clip_values=10 * shots / (5 * queries)),
            iterations=60_000,
            meta_batch=4 if shots == 1 else 2,
            pixels=84,
        ),
        testing=Testing(Drawing(_TEST, 5, shots, queries=shots), episodes=600, steps=10),
        source="the authors' code" if exact else "MAML's code with its gradients stopped",
        published=(_MAML_NUMBERS if exact else _FOMAML_NUMBERS)[shots],
        reproductions=((_MAML_AGAIN if exact else _FOMAML_AGAIN)[shots],),
        note="2 tasks a meta-step as in the paper; the command in the code says 4"
        if shots == 5
        else "",
    )


# Alone, and all queries at once.
_REPTILE_NUMBERS = {1: (47.07, 0.26, 49.97, 0.32), 5: (62.74, 0.37, 65.99, 0.58)}


def _reptile(shots: int) -> Recipe:
    alone, half, together, other_half = _REPTILE_NUMBERS[shots]
    return Recipe(
        training=Training(
            algorithm="reptile",
            data="mini_imagenet",
            # No learner of the library reports on no queries; Reptile learns nothing from it.
            drawing=Drawing(_TRAIN, 5, 15, queries=1),
            network=Network(
                "max_pool",
                filters=32,
                pool_padding="SAME",
                pool_first=True,
                epsilon=1e-3,
                kernel_init="xavier_uniform",
                head_kernel_init="xavier_uniform",
            ),
            # Their memory of 1,000 inner steps, of 5 tasks that come one after another.
            inner=Inner(1e-3, 8, optimizer="adam", batch_size=10, decay=0.995, carried="replaced"),
            outer=Outer(1.0, optimizer="sgd", schedule="linear"),
            iterations=100_000,
            meta_batch=5,
            pixels=84,
        ),
        testing=Testing(
            Drawing(_TEST, 5, shots, queries=1),
            episodes=10_000,
            steps=50,
            batch_size=5 if shots == 1 else 15,
            query_batching="single",
        ),
        source="the authors' code",
        published=Number(alone, _REPTILE_PAPER, half),
        transductive=Number(together, _REPTILE_PAPER, other_half),
        note="the tasks of a meta-step are computed side by side, and Adam's second moment is "
        "their mean; in the authors' code each task goes on from the one before, with a decay of "
        "0.999, at test as well",
    )


_SNELL = "Snell et al. 2017, table 2"
_PROTOTYPICAL_NUMBERS = {1: Number(49.42, _SNELL, 0.78), 5: Number(68.20, _SNELL, 0.66)}
_PROTOTYPICAL_AGAIN = {
    1: (Number(49.1, _LEARN2LEARN), Number(48.85, _PADDLE, 0.42)),
    5: (Number(66.5, _LEARN2LEARN), Number(66.87, _PADDLE, 0.25)),
}
_TORCH_DEFAULT = "variance_scaling(1/3, fan_in, uniform)"


def _prototypical(shots: int) -> Recipe:
    return Recipe(
        training=Training(
            algorithm="prototypical",
            data="mini_imagenet",
            drawing=Drawing(_TRAIN, 30 if shots == 1 else 20, shots, queries=15),
            network=Network("embedding", kernel_init=_TORCH_DEFAULT),
            outer=Outer(1e-3, schedule="steps", every=2_000),
            iterations=20_000,
            query_batching="joint",
            pixels=84,
        ),
        testing=Testing(Drawing(_TEST, 5, shots, queries=15), episodes=600, query_batching="joint"),
        source="the authors' code and Snell et al. 2017, section 3.2",
        published=_PROTOTYPICAL_NUMBERS[shots],
        reproductions=_PROTOTYPICAL_AGAIN[shots],
        note="theirs is tested with running averages, this with the statistics of support and "
        "queries; they stop by the validation loss, here when the rate has fallen to 1/1000",
    )


_SUNG = "Sung et al. 2018, table 2"
_RELATION_NUMBERS = {1: (50.44, 0.82, "validation"), 5: (65.32, 0.70, "test")}
_RELATION_AGAIN = {1: Number(50.18, _PADDLE, 0.46), 5: Number(65.34, _PADDLE, 0.41)}


def _relation(shots: int) -> Recipe:
    value, half, selected_on = _RELATION_NUMBERS[shots]
    return Recipe(
        training=Training(
            algorithm="relation",
            data="mini_imagenet",
            drawing=Drawing(_TRAIN, 5, shots, queries=15 if shots == 1 else 10),
            network=Network(
                "relation",
                padding="VALID",
                kernel_init="variance_scaling(2, fan_out, normal)",
                head_kernel_init="normal(0.01)",
                head_bias_init="ones",
            ),
            outer=Outer(1e-3, schedule="steps", every=100_000, clip=0.5, clip_modules=True),
            iterations=500_000,
            pixels=84,
        ),
        # Their 15 queries a class are asked 3 or 5 at a time.
        testing=Testing(Drawing(_TEST, 5, shots, queries=3 if shots == 1 else 5), episodes=6_000),
        source="the authors' code",
        published=Number(
            value,
            _SUNG,
            half,
            note=f"the best of up to 100 tests on the {selected_on} classes; here the last "
            "parameters",
        ),
        reproductions=(_RELATION_AGAIN[shots],),
    )


# Of Ravi and Larochelle's split; without and with Full Context Embeddings.
_RAVI = "Ravi and Larochelle 2017, table 1"
_MATCHING_NUMBERS = {1: Number(43.40, _RAVI, 0.78), 5: Number(51.09, _RAVI, 0.71)}
_FULL_CONTEXT_NUMBERS = {1: Number(43.56, _RAVI, 0.84), 5: Number(55.31, _RAVI, 0.73)}
# Of Vinyals et al. 2016, table 2, in their own split.
_THEIR_MATCHING = {1: 41.2, 5: 56.2}
_THEIR_FULL_CONTEXT = {1: 44.2, 5: 57.0}


def _matching(shots: int, *, variant: str = "") -> Recipe:
    bounded, full_context = variant == "bounded", variant == "fce"
    theirs = (_THEIR_FULL_CONTEXT if full_context else _THEIR_MATCHING)[shots]
    cosine = (
        "the cosine as the paper defines it, without a temperature"
        if bounded
        else "only the support's embeddings are normalised, as in code that came near the numbers "
        "of Omniglot"
    )
    return Recipe(
        training=Training(
            algorithm="matching",
            data="mini_imagenet",
            drawing=Drawing(_TRAIN, 5, shots, queries=15),
            network=Network("embedding"),
            outer=Outer(1e-3, schedule="cosine", clip=1.0 if full_context else None),
            iterations=40_000,
            query_batching="joint",
            pixels=84,
            normalize="both" if bounded else "support",
            full_context="zeros" if full_context else "none",
        ),
        testing=Testing(Drawing(_TEST, 5, shots, queries=15), episodes=600, query_batching="joint"),
        source="open in both papers; chosen here",
        variant=variant,
        published=(_FULL_CONTEXT_NUMBERS if full_context else _MATCHING_NUMBERS)[shots],
        note=f"{cosine}; Vinyals et al. 2016, table 2, have {theirs} in their own split of 80 and "
        "20 classes",
    )


def _proto_maml(algorithm: Algorithm, shots: int) -> Recipe:
    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="mini_imagenet",
            drawing=Drawing(_TRAIN, 5, shots, queries=15),
            network=Network("embedding"),
            inner=Inner(0.01, 5, adapts="but statistics"),
            outer=Outer(1e-4, schedule="steps", every=5_000, weight_decay=1e-4),
            iterations=75_000,
            query_batching="support",
            pixels=84,
        ),
        testing=Testing(
            Drawing(_TEST, 5, shots, queries=15),
            episodes=600,
            steps=5,
            query_batching="support",
        ),
        source="the defaults of Meta-Dataset's code; nobody published these cells",
        note="queries by the support set's statistics, which no inner step adapts, as published",
    )


RECIPES: tuple[Recipe, ...] = (
    *(_maml("maml", shots) for shots in SHOTS),
    *(_maml("fomaml", shots) for shots in SHOTS),
    *(_reptile(shots) for shots in SHOTS),
    *(_prototypical(shots) for shots in SHOTS),
    *(_relation(shots) for shots in SHOTS),
    *(_matching(shots) for shots in SHOTS),
    *(_matching(shots, variant="bounded") for shots in SHOTS),
    *(_matching(shots, variant="fce") for shots in SHOTS),
    *(_proto_maml("proto_maml", shots) for shots in SHOTS),
    *(_proto_maml("fo_proto_maml", shots) for shots in SHOTS),
)
