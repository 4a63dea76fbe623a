"""A model whose parameters are constants, but for those that are to be learned."""

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_model
from metajax.checks.parameters import check_floats, check_parameters
from metajax.given_data import as_arrays
from metajax.inner.selection import Selection, check_selection, select
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing, State


def frozen(model: Model, params: Params, *, learn: Selection | None = None) -> Model:
    """`model` with `params` as constants, which nothing moves, differentiates or saves.

    >>> import jax, metajax
    >>> net = metajax.models.mlp((8, 5))
    >>> params = net.init(jax.random.key(0), jax.numpy.zeros((1, 4)))
    >>> body = metajax.models.frozen(net, params)
    >>> body.init(jax.random.key(1), jax.numpy.zeros((1, 4)))
    {}

    A learner of it alone has nothing to learn, and is evaluated as it is. With a head it learns the
    head: `maml(metajax.models.chain(body, head), ...)` is ANIL with a frozen body. Keys and weights
    reach the model: what it drops in training, or normalises by the batch, it still does. Half
    precision goes within, `frozen(computing_in(model, jnp.bfloat16), params)`: what is frozen is
    not cast from without.

    Args:
      model: any model.
      params: its parameters, pre-trained say; floats. They are held, not copied, and compiled into
        every program that applies the model: of 40 million or more, features that are computed once
        (`metajax.data.features`) cost less, or `jax.config.update(
        "jax_use_simplified_jaxpr_constants", True)`, by which programs are handed them.
      learn: which of them are its parameters after all, see `Selection`; the others have None in
        their place, and `init` gives the learned ones as they are in `params`, whatever its key.
        None freezes all, and the parameters are `{}`.

    Raises:
      TypeError: `model` is no `Model`, the parameters are no floats, or `learn` is no `Selection`.
      ValueError: `learn` names no parameter, or all; from `init`: the parameters are another
        model's, or for other inputs; from `apply`: it is given parameters of another form.
    """
    check_model(model, "model")
    params = as_arrays(params, "params")
    check_floats(params)
    check_selection(learn, name="learn", verb="freeze")
    if learn is None:
        part, whole = {}, lambda own: params
    else:
        part, whole = select(params, learn, name="learn", verb="freeze")

    def merged(own: Params) -> Params:
        check_parameters(part, own)
        return whole(own)

    def init(key: Key, inputs: Inputs) -> Params:
        check_parameters(jax.eval_shape(model.init, key, inputs), params)
        return jax.tree.map(jnp.array, part)  # Whoever donates them keeps the model.

    def apply(own: Params, inputs: Inputs, weights: Array | None, key: Key | None) -> Outputs:
        return model.apply(merged(own), inputs, weights, key)

    def sharing(own: Params, inputs: Inputs) -> Sharing:
        return model.sharing(merged(own), inputs)

    def statistics(own: Params, state: State, inputs: Inputs, weights: Array | None) -> State:
        assert model.statistics is not None
        return model.statistics(merged(own), state, inputs, weights)

    kept = None if model.statistics is None else statistics
    return Model(init, apply, sharing=sharing, statistics=kept)
