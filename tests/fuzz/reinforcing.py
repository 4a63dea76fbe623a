"""Calls of what learns to act: policies, environments, roll-outs and what becomes of them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from fuzz import kinds as k
from fuzz import things
from fuzz.algorithms import INNER, LOOP
from fuzz.table import Call

import metajax as mj
from metajax import rl

HORIZON, ROLLOUTS = 3, 2
NO_OPTIMIZER = optax.identity()


@things.made_once
def environment() -> rl.Environment:
    return rl.navigation()


@things.made_once
def policy() -> rl.Policy:
    return rl.gaussian_policy(mj.models.mlp((2,)))


@things.made_once
def objective() -> rl.PolicyGradient:
    return rl.PolicyGradient(policy(), environment(), horizon=HORIZON, rollouts=ROLLOUTS)


@things.made_once
def plain_objective() -> rl.PolicyGradient:
    """Whose inner derivative takes the roll-outs as they are."""
    surrogate = rl.Surrogate(dice_lambda=None)
    options = {"horizon": HORIZON, "rollouts": ROLLOUTS, "surrogate": surrogate}
    return rl.PolicyGradient(policy(), environment(), **options)


@things.made_once
def params() -> Any:
    return policy().init(things.KEY, jnp.zeros((1, 2)))


@things.made_once
def batch() -> rl.Batch:
    return objective().draw(params(), goal(), things.KEY)


@things.made_once
def learner() -> mj.Learner:
    return mj.maml(objective(), inner=optax.sgd(0.1), num_steps=1)


@things.made_once
def episode() -> mj.Episode:
    return rl.task_episodes(environment())(things.KEY)


def goal() -> jax.Array:
    return jnp.array([0.3, -0.4])


def gaussian() -> rl.Gaussian:
    return rl.Gaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2)))


def categorical() -> rl.Categorical:
    return rl.Categorical(jnp.zeros((3, 4)))


def _several(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.stack([x, x]), tree)


ABOVE = k.number(0.0, -1.0, float("inf"))
FROM_ZERO = k.number(-1.0, float("inf"))
SHARE = k.number(-0.1, 1.1)
BETWEEN = k.number(0.0, 1.0, -0.5)
POLICY = k.Kind(
    "policy",
    lambda: {
        "None": None,
        "a text": "gaussian",
        "a model": things.model(),
        "its factory": rl.gaussian_policy,
        "a function": policy().distribution,
        "an objective": objective(),
    },
)
ENVIRONMENT = k.Kind(
    "environment",
    lambda: {
        "None": None,
        "a text": "navigation",
        "its factory": rl.navigation,
        "a function": environment().step,
        "its functions": (environment().reset, environment().step),
        "a policy": policy(),
    },
)
UNFIT = k.Kind(
    "unfit environment",
    lambda: {
        "other observations": _environment(reset=lambda key, task: (task, jnp.zeros((2, 2)))),
        "one result of reset": _environment(reset=lambda key, task: task),
        "a text for an observation": _environment(reset=lambda key, task: (task, "origin")),
        "nothing for an observation": _environment(reset=lambda key, task: (task, None)),
        "a text for a task": _environment(sample_task=lambda key: "goal"),
        "nothing for a task": _environment(sample_task=lambda key: None),
        "nothing from step": _environment(step=lambda key, state, action, task: None),
        "an action to choose": rl.tabular(3, 2),
        "a key for a task": rl.observing_task(
            _environment(
                reset=lambda key, task: (jnp.zeros(2), jnp.zeros(2)), sample_task=lambda key: key
            )
        ),
        "a failing step": _stepping(lambda state, action: {}["state"]),
        "other actions": _stepping(lambda state, action: (state @ action[:1], state, 0.0, False)),
        "another state": _stepping(lambda state, action: (state[:1], state, 0.0, False)),
        "a state of a text": _stepping(lambda state, action: ("state", state, 0.0, False)),
        "another observation": _stepping(lambda state, action: (state, state[:1], 0.0, False)),
        "an integer's reward": _stepping(lambda state, action: (state, state, 0, False)),
        "a text's reward": _stepping(lambda state, action: (state, state, "0", False)),
        "two rewards": _stepping(lambda state, action: (state, state, state, False)),
        "two ends": _stepping(lambda state, action: (state, state, 0.0, state > 0)),
    },
)
UNFIT_POLICY = k.Kind(
    "unfit policy",
    lambda: {
        "no distribution": rl.Policy(lambda key, x: {"w": x}, lambda params, x: x),
        "no pytree": rl.Policy(lambda key, x: {"w": x}, lambda params, x: "normal"),
        "outputs of a picture": rl.gaussian_policy(mj.Model(_nothing, lambda params, x: x[None])),
        "pictures": rl.gaussian_policy(mj.models.max_pool_conv_net(2)),
        "another shape": rl.Policy(
            lambda key, x: {"w": x},
            lambda params, x: rl.Gaussian(x[:, None], x[:, None]),
        ),
    },
)
TASK = k.Kind(
    "task of an environment",
    lambda: {
        "None": None,
        "a text": "goal",
        "a function": abs,
        "a list": [0.3, -0.4],
        "three numbers": jnp.zeros(3),
        "integers": jnp.zeros(2, int),
        "a set": episode().support,
        "several": _several(goal()),
    },
)
PARAMS = k.Kind(
    "parameters",
    lambda: {
        "None": None,
        "a text": "params",
        "a function": abs,
        "the model's alone": params().model,
        "another policy's": rl.GaussianParams(params().model, jnp.zeros(3)),
        "integers": jax.tree.map(lambda x: x.astype(jnp.int32), params()),
        "several": _several(params()),
    },
)
TRAJECTORIES = k.Kind(
    "roll-outs",
    lambda: {
        "None": None,
        "a text": "trajectories",
        "a batch": batch(),
        "a tuple": tuple(batch().trajectories),
        "rewards alone": batch().trajectories.rewards,
        "several tasks'": _several(batch().trajectories),
        "others' rewards": batch().trajectories._replace(rewards=jnp.zeros((5, HORIZON))),
        "a text's mask": batch().trajectories._replace(mask="mask"),
        "too many weights": batch().trajectories._replace(weights=jnp.ones(5)),
    },
)
RETURNS = k.ARRAY.also(lambda: {"one a roll-out": jnp.zeros(ROLLOUTS), "a number": 3.0})
BATCH = k.Kind(
    "batch of roll-outs",
    lambda: {
        "None": None,
        "a text": "batch",
        "trajectories": batch().trajectories,
        "a tuple": tuple(batch()),
        "several tasks'": _several(batch()),
        "no advantages": batch()._replace(advantages=None),
        "one a roll-out": batch()._replace(advantages=jnp.zeros(ROLLOUTS)),
    },
)
SURROGATE = k.Kind(
    "surrogate",
    lambda: {"None": None, "a text": "dice", "the class": rl.Surrogate, "a number": 1.0},
)
BASELINE = k.choice("LINEAR").without("None").also(lambda: {"a function of one": lambda paths: 0.0})
OF_BASELINE = k.Kind(
    "what a baseline gives",
    lambda: {
        "a number": lambda trajectories, returns: 0.0,
        "one a roll-out": lambda trajectories, returns: returns[:, 0],
        "a text": lambda trajectories, returns: "baseline",
    },
)
FOREIGN = k.Kind(
    "another library's environment",
    lambda: {
        "None": None,
        "an unknown name": "halfcheetahs",
        "a number": 3,
        "one of this library": environment(),
        "a function": environment().step,
    },
)
MODEL = {"model": k.MODEL}
ACTING = {"params": PARAMS, "task": TASK, "key": k.KEY}


class _Body:
    """What acts as an environment of brax does, as far as it takes to see the arguments."""

    def reset(self, rng: Any) -> None: ...

    def step(self, state: Any, action: Any) -> None: ...


def _nothing(key: Any, inputs: Any) -> Any:
    return {"w": jnp.zeros(2)}


def _environment(**other: Any) -> rl.Environment:
    given = {name: getattr(environment(), name) for name in ("reset", "step", "sample_task")}
    return rl.Environment(**{**given, **other})


def _stepping(move: Any) -> rl.Environment:
    return _environment(step=lambda key, state, action, task: move(state, action))


def _acting() -> dict[str, Any]:
    return {"params": params(), "task": goal(), "key": things.KEY}


def _fitting() -> dict[str, Any]:
    return {
        "policy": policy(),
        "environment": environment(),
        "horizon": HORIZON,
        "rollouts": ROLLOUTS,
    }


def _judged() -> dict[str, Any]:
    return {"trajectories": batch().trajectories, "returns": jnp.zeros((ROLLOUTS, HORIZON))}


def _of_objective(method: str, right: Any, table: dict[str, k.Kind], **options: Any) -> Call:
    return Call(
        f"metajax.rl.PolicyGradient.{method}",
        lambda **given: getattr(objective(), method)(**given),
        right,
        table,
        **options,
    )


POLICIES = (
    Call(
        "metajax.rl.Policy",
        rl.Policy,
        lambda: {"init": policy().init, "distribution": policy().distribution},
        {"init": k.FUNCTION, "distribution": k.FUNCTION},
    ),
    Call(
        "metajax.rl.Policy.over_steps",
        lambda **given: policy().over_steps(**given),
        lambda: {"params": params(), "observations": jnp.zeros((ROLLOUTS, HORIZON, 2))},
        {"observations": k.ARRAY.also(lambda: {"a number": jnp.zeros(()), "one": jnp.zeros(2)})},
    ),
    Call(
        "metajax.rl.gaussian_policy",
        rl.gaussian_policy,
        lambda: {"model": things.model(), "std": 0.5, "min_std": 1e-3},
        {**MODEL, "std": ABOVE.also(lambda: {"below the least": 1e-4}), "min_std": FROM_ZERO},
    ),
    Call(
        "metajax.rl.categorical_policy",
        rl.categorical_policy,
        lambda: {"model": things.model()},
        MODEL,
    ),
    Call(
        "metajax.rl.Gaussian.sample",
        lambda **given: gaussian().sample(**given),
        lambda: {"key": things.KEY},
        {"key": k.KEY},
    ),
    Call(
        "metajax.rl.Gaussian.log_prob",
        lambda **given: gaussian().log_prob(**given),
        lambda: {"actions": jnp.ones((3, 2))},
        {"actions": k.ARRAY.also(lambda: {"one": jnp.ones(2), "a component": jnp.ones((3, 1))})},
    ),
    Call(
        "metajax.rl.Gaussian.kl",
        lambda **given: gaussian().kl(**given),
        lambda: {"other": gaussian()},
        {
            "other": k.Kind(
                "distribution",
                lambda: {
                    "None": None,
                    "another kind": categorical(),
                    "a mean": jnp.zeros((3, 2)),
                    "a tuple": tuple(gaussian()),
                    "one item's": jax.tree.map(lambda x: x[0], gaussian()),
                },
            )
        },
    ),
    Call(
        "metajax.rl.Categorical.sample",
        lambda **given: categorical().sample(**given),
        lambda: {"key": things.KEY},
        {"key": k.KEY},
    ),
    Call(
        "metajax.rl.Categorical.log_prob",
        lambda **given: categorical().log_prob(**given),
        lambda: {"actions": jnp.arange(3)},
        {
            "actions": k.ARRAY.also(
                lambda: {"floats": jnp.ones(3), "one": jnp.array(1), "one-hot": jnp.eye(3, 4)}
            )
        },
    ),
    Call(
        "metajax.rl.Categorical.kl",
        lambda **given: categorical().kl(**given),
        lambda: {"other": categorical()},
        {
            "other": k.Kind(
                "distribution",
                lambda: {
                    "None": None,
                    "another kind": gaussian(),
                    "logits": jnp.zeros((3, 4)),
                    "of other actions": rl.Categorical(jnp.zeros((3, 5))),
                },
            )
        },
    ),
)

ENVIRONMENTS = (
    Call(
        "metajax.rl.Environment",
        rl.Environment,
        lambda: {n: getattr(environment(), n) for n in ("reset", "step", "sample_task")},
        {
            **dict.fromkeys(("reset", "step", "sample_task"), k.FUNCTION),
            "num_actions": k.integer(1).without("None"),
            "action_size": k.integer(1).without("None"),
        },
    ),
    Call(
        "metajax.rl.navigation",
        rl.navigation,
        lambda: {"stride": 0.1, "reach": 0.5, "radius": 0.01},
        {"stride": ABOVE, "reach": ABOVE, "radius": FROM_ZERO},
    ),
    Call(
        "metajax.rl.tabular",
        rl.tabular,
        lambda: {"states": 3, "actions": 2, "noise": 0.5},
        {"states": k.integer(1), "actions": k.integer(1), "noise": FROM_ZERO},
    ),
    Call(
        "metajax.rl.from_gymnax",
        rl.from_gymnax,
        lambda: {"environment": "CartPole-v1"},
        {
            "environment": FOREIGN,
            "sample_task": k.OPTIONAL_FUNCTION,
            "same_start": k.FLAG,
        },
        needs=("gymnax",),
    ),
    Call(
        "metajax.rl.from_brax",
        rl.from_brax,
        lambda: {
            "environment": _Body(),
            "reward": lambda task, action, state: state,
            "sample_task": lambda key: key,
        },
        {
            "environment": FOREIGN,
            "reward": k.FUNCTION,
            "sample_task": k.FUNCTION,
            "backend": k.choice("MJX").without("None"),
        },
        needs=("brax",),
    ),
    Call(
        "metajax.rl.observing_task",
        rl.observing_task,
        lambda: {"environment": environment()},
        {"environment": ENVIRONMENT},
    ),
    Call(
        "an environment that observes its task",
        lambda environment: rl.PolicyGradient(
            policy(), rl.observing_task(environment), horizon=1, rollouts=1
        ),
        lambda: {"environment": environment()},
        {
            "environment": k.Kind(
                "environment of vectors",
                lambda: {
                    "a picture": _environment(reset=lambda key, task: (task, jnp.zeros((2, 2)))),
                    "a dictionary": _environment(reset=lambda key, task: (task, {"a": task})),
                },
            )
        },
    ),
    Call(
        "metajax.rl.task_examples",
        rl.task_examples,
        lambda: {"task": goal()},
        {
            "task": k.Kind(
                "any task", lambda: {"a text": "goal", "a function": abs, "texts": {"a": "goal"}}
            )
        },
    ),
    Call(
        "metajax.rl.task_episodes",
        lambda environment: rl.task_episodes(environment)(things.KEY),
        lambda: {"environment": environment()},
        {
            "environment": ENVIRONMENT.also(
                lambda: {"a text for a task": _environment(sample_task=lambda key: "goal")}
            )
        },
    ),
)

ROLL_OUTS = (
    Call(
        "metajax.rl.roll_out",
        rl.roll_out,
        lambda: {**_fitting(), **_acting()},
        {
            "policy": POLICY,
            "environment": ENVIRONMENT,
            **ACTING,
            "horizon": k.integer(1),
            "rollouts": k.integer(1),
        },
    ),
    Call(
        "metajax.rl.linear_baseline",
        rl.linear_baseline,
        _judged,
        {"trajectories": TRAJECTORIES, "returns": RETURNS},
    ),
    Call(
        "metajax.rl.leave_one_out",
        rl.leave_one_out,
        _judged,
        {
            "trajectories": TRAJECTORIES.also(
                lambda: {
                    "with weights": batch().trajectories._replace(weights=jnp.ones(ROLLOUTS)),
                }
            ),
            "returns": RETURNS,
        },
    ),
    Call(
        "metajax.rl.Surrogate",
        rl.Surrogate,
        dict,
        {
            "dice_lambda": SHARE.without("None"),
            "discount": SHARE,
            "gae_lambda": SHARE,
            "baseline": BASELINE,
            "normalize": k.FLAG,
            "scale": k.choice("STEP"),
        },
    ),
    Call(
        "metajax.rl.Surrogate.advantages",
        lambda **given: rl.Surrogate().advantages(**given),
        lambda: {"trajectories": batch().trajectories},
        {"trajectories": TRAJECTORIES},
    ),
    Call(
        "a surrogate's baseline",
        lambda baseline: rl.Surrogate(baseline=baseline).advantages(batch().trajectories),
        lambda: {"baseline": rl.linear_baseline},
        {"baseline": OF_BASELINE},
    ),
    Call(
        "a surrogate",
        lambda **given: rl.Surrogate()(**given),
        lambda: {
            "log_probs": batch().trajectories.log_probs,
            "trajectories": batch().trajectories,
            "advantages": batch().advantages,
        },
        {
            "log_probs": RETURNS,
            "trajectories": TRAJECTORIES,
            "advantages": RETURNS,
            "clip": ABOVE.without("None"),
        },
    ),
)

ONE_TASK = k.EPISODE.also(
    lambda: {
        "another environment's": things.episode(),
        "several tasks": jax.tree.map(lambda x: jnp.concatenate([x, x]), episode()),
    }
)
IN_STEPS = {
    "objective": k.OBJECTIVE.also(lambda: {"of a model": things.objective()}),
    **INNER,
    "axis_name": k.TEXT.without("None"),
}
STEPPING = {
    "state": k.STATE.also(
        lambda: {
            "another policy's": _state(rl.GaussianParams(params().model, jnp.zeros(3))),
            "another optimiser's": _state(params(), optax.sgd(0.1, momentum=0.9)),
        }
    ),
    "episodes": k.EPISODES.also(
        lambda: {
            "another environment's": things.episodes(),
            "two items": _several(jax.tree.map(lambda x: jnp.concatenate([x, x]), episode())),
        }
    ).without("one episode"),
}


def _stepped() -> dict[str, Any]:
    return {"objective": objective(), "inner": things.INNER, "num_steps": 1}


def _state(params: Any, optimizer: Any = NO_OPTIMIZER) -> mj.TrainState:
    return mj.init_state(params, optimizer, things.KEY)


META_STEPS = (
    Call(
        "metajax.rl.trpo_step",
        rl.trpo_step,
        _stepped,
        {
            **IN_STEPS,
            "max_kl": ABOVE,
            "cg_steps": k.integer(1),
            "damping": FROM_ZERO,
            "backtracks": k.integer(1),
            "backtrack_ratio": BETWEEN,
        },
    ),
    Call(
        "metajax.rl.ppo_step",
        rl.ppo_step,
        lambda: {**_stepped(), "optimizer": things.OUTER},
        {
            **IN_STEPS,
            "optimizer": k.OPTIMIZER,
            "clip": ABOVE,
            "inner_kl": FROM_ZERO,
            "epochs": k.integer(1),
        },
    ),
    Call(
        "a step of ppo_step",
        lambda **given: rl.ppo_step(**_stepped(), optimizer=things.OUTER)(**given),
        lambda: {"state": _state(params(), things.OUTER), "episodes": _several(episode())},
        STEPPING,
        slow=True,
    ),
    Call(
        "metajax.rl.collect",
        rl.collect,
        lambda: {
            "objective": objective(),
            "loop": mj.InnerLoop(things.INNER, 1),
            "params": params(),
            "episode": episode(),
            "key": things.KEY,
        },
        {
            "objective": IN_STEPS["objective"],
            "loop": LOOP,
            "params": PARAMS,
            "episode": ONE_TASK,
            "key": k.KEY,
        },
        late=True,
    ),
    Call(
        "a step of trpo_step",
        lambda **given: rl.trpo_step(**_stepped())(**given),
        lambda: {"state": _state(params()), "episodes": _several(episode())},
        STEPPING,
        slow=True,
    ),
)

LEARNERS = (
    Call(
        "metajax.rl.e_maml",
        rl.e_maml,
        lambda: {**_stepped(), "objective": plain_objective()},
        {
            **{name: IN_STEPS[name] for name in ("inner", "num_steps", "backward", "adapt")},
            "objective": IN_STEPS["objective"].also(lambda: {"of a box": objective()}),
        },
    ),
    Call(
        "a policy's learner.loss",
        lambda **given: learner().loss(**given),
        lambda: {"params": params(), "episode": episode(), "key": things.KEY},
        {
            "params": PARAMS,
            "episode": ONE_TASK,
            "key": k.KEY,
        },
        slow=True,
    ),
    Call(
        "a policy's learner.adapt",
        lambda **given: learner().adapt(**given),
        lambda: {"params": params(), "support": episode().support, "key": things.KEY},
        {"params": PARAMS, "support": k.EXAMPLES, "key": k.KEY},
        slow=True,
    ),
    Call(
        "a policy's learner.predict",
        lambda **given: learner().predict(**given),
        lambda: {
            "params": params(),
            "task": mj.AdaptedTask(params(), ()),
            "inputs": jnp.zeros((4, 2)),
        },
        {"inputs": k.ARRAY.also(lambda: {"another width": jnp.zeros((4, 3))})},
        late=True,
    ),
)

OBJECTIVES = (
    Call(
        "metajax.rl.PolicyGradient",
        rl.PolicyGradient,
        _fitting,
        {
            "policy": POLICY.also(UNFIT_POLICY.bad),
            "environment": ENVIRONMENT.also(UNFIT.bad),
            "horizon": k.integer(1),
            "rollouts": k.integer(1),
            "surrogate": SURROGATE,
        },
    ),
    _of_objective("roll_out", _acting, ACTING),
    _of_objective("draw", _acting, ACTING),
    _of_objective(
        "surrogate_loss",
        lambda: {"params": params(), "batch": batch()},
        {
            "params": PARAMS,
            "batch": BATCH,
            "surrogate": SURROGATE.without("None"),
            "clip": ABOVE.without("None"),
        },
    ),
    _of_objective(
        "kl",
        lambda: {"params": params(), "batch": batch()},
        {"params": PARAMS, "batch": BATCH},
    ),
    _of_objective("value", lambda: {"batch": batch()}, {"batch": BATCH}),
)

CALLS = (*POLICIES, *ENVIRONMENTS, *ROLL_OUTS, *OBJECTIVES, *META_STEPS, *LEARNERS)
