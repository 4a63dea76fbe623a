"""Reinforcement learning: policies, environments, and steps that change them within bounds."""

from metajax.rl.adapters.brax import from_brax
from metajax.rl.adapters.gymnax import from_gymnax
from metajax.rl.baselines import leave_one_out, linear_baseline
from metajax.rl.distributions import Categorical, Distribution, Gaussian
from metajax.rl.environments import Environment, observing_task, task_episodes, task_examples
from metajax.rl.exploration import e_maml
from metajax.rl.point_navigation import navigation
from metajax.rl.policies import GaussianParams, Policy, categorical_policy, gaussian_policy
from metajax.rl.policy_gradients import Batch, PolicyGradient
from metajax.rl.ppo import ppo_step
from metajax.rl.surrogates import Surrogate
from metajax.rl.tabular_processes import TabularTask, tabular
from metajax.rl.trajectories import Trajectories, roll_out
from metajax.rl.trpo import trpo_step

__all__ = [
    "Batch",
    "Categorical",
    "Distribution",
    "Environment",
    "Gaussian",
    "GaussianParams",
    "Policy",
    "PolicyGradient",
    "Surrogate",
    "TabularTask",
    "Trajectories",
    "categorical_policy",
    "e_maml",
    "from_brax",
    "from_gymnax",
    "gaussian_policy",
    "leave_one_out",
    "linear_baseline",
    "navigation",
    "observing_task",
    "ppo_step",
    "roll_out",
    "tabular",
    "task_episodes",
    "task_examples",
    "trpo_step",
]


def __dir__() -> list[str]:
    return __all__
