"""What `from_nnx` is given, checked and split."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.kinds import in_brief
from metajax.models.adapters.modes import check_call
from metajax.models.adapters.nnx_modes import Path, named, norms
from metajax.models.adapters.nnx_module import NNXModule, arrays, with_values
from metajax.models.adapters.refusals import check_given
from metajax.user_warnings import warn_user


def nnx_module(module: Any, frozen: Any) -> NNXModule:
    """The arguments of `from_nnx`, checked, and the module split."""
    given = _given(frozen)
    built = isinstance(module, nnx.Module)
    whole = module if built else _build(module)
    check_call(whole, "weights", "rngs")
    graph, params, rngs, rest = nnx.split(whole, nnx.Param, nnx.RngState, ...)
    own = arrays(rest)
    paths = {named(path): path for path in own}
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    learned = {named(path) for path in arrays(params)}
    if wrong := sorted("/".join(path) for path in given if path in learned):
        raise ValueError(
            f"frozen holds {wrong[0]}, a parameter, which is learned; expected other state alone, "
            "nnx.state(module, nnx.BatchStat) say"
        )
    streams = {named(path) for path in arrays(rngs)}
    given = {path: value for path, value in given.items() if path not in streams}
    check_given(given, {name: own[path] for name, path in paths.items()})
    averaged: set[Path] = set()
    unused: list[Path] = []
    missing: set[Path] = set()
    for path, norm in norms(whole):
        averages = {(*path, "mean"), (*path, "var")}
        if averages & given.keys() or (built and norm.use_running_average is True):
            averaged.add(path)
        elif built:
            missing |= averages
            unused += [path] if _is_trained(norm) else []
    if unused:
        warn_user(
            f"the batch norm {'/'.join(unused[0])} of the module, and {len(unused) - 1} more, hold "
            "trained running averages and are in training mode, so that they will use the batch in "
            "their place; module.eval() before from_nnx(module) uses them"
        )
    if not built:
        flat = nnx.to_flat_state(rest)
        missing = {named(path) for path, x in flat if isinstance(x, nnx.Variable)}
    given = {paths[name]: value for name, value in given.items()}
    missing -= {named(path) for path in given}
    return NNXModule(
        call=type(whole).__call__,
        graph=graph,
        params=params,
        rngs=rngs,
        rest=with_values(rest, unflatten_dict(given)),
        given=given,
        missing={path: own[path] for name, path in paths.items() if name in missing},
        averaged=averaged,
        normalised=any(path not in averaged for path, _ in norms(whole)),
    )


def _is_trained(norm: nnx.BatchNorm) -> bool:
    """Whether its running averages are others than they begin as."""
    mean, variance = (np.asarray(average[...]) for average in (norm.mean, norm.var))
    return bool((mean != 0).any() or (variance != 1).any())


def _build(build: Any) -> nnx.Module:
    if isinstance(build, nn.Module) or not callable(build):
        remedy = "; modules of linen go to from_linen" if isinstance(build, nn.Module) else ""
        raise TypeError(
            f"module is {in_brief(build)}; expected an nnx.Module or a function from nnx.Rngs to "
            f"one, lambda rngs: MyModule(rngs=rngs){remedy}"
        )
    with jax.ensure_compile_time_eval():
        module = build(nnx.Rngs(0))
    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"the function made {in_brief(module)}; expected an nnx.Module, "
            "lambda rngs: MyModule(rngs=rngs)"
        )
    return module


def _given(frozen: Any) -> dict[Path, Any]:
    if frozen is None:
        return {}
    if not isinstance(frozen, nnx.State | Mapping):
        raise TypeError(
            f"frozen is {type(frozen).__name__}; expected a state, nnx.state(module, "
            "nnx.BatchStat) say, a pure dict of it, or None"
        )
    pure = nnx.to_pure_dict(frozen) if isinstance(frozen, nnx.State) else frozen
    return {named(path): value for path, value in flatten_dict(pure).items()}
