"""Calls of what trains recipes into folders, and reads them again."""

import tempfile
from pathlib import Path
from typing import Any

from fuzz import kinds as k
from fuzz import things
from fuzz.publishing import _record
from fuzz.table import Call

from metajax import recipes, runs

PICTURES = k.OPTIONAL_PATH.also(lambda: {"of sinusoids": "flowers"})
WHICH = k.choice("BEST").without("None")._replace(name="optional choice")
RUN = k.Kind(
    "run",
    lambda: {
        "None": None,
        "its folder": "runs/maml",
        "a recipe": things.small_recipe(),
        "the class": runs.Run,
        "a state": things.state(),
    },
)
OF_BOTH = {
    "seed": k.integer(0),
    "which": WHICH,
    "data_dir": k.OPTIONAL_PATH,
    "pictures": PICTURES,
}


def _train(**given: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return runs.train_run(**{"folder": Path(folder) / "run", "progress": False, **given})


def _report(**given: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return runs.report_run(**{"folder": folder, **given})


CALLS = (
    Call(
        "metajax.runs.train_run",
        _train,
        lambda: {"recipe": things.small_recipe()},
        {
            "recipe": _record(recipes.Recipe).also(lambda: {"its name": "maml-glyphs-5w1s"}),
            "folder": k.PATH,
            "data_dir": k.OPTIONAL_PATH,
            "pictures": PICTURES,
            "seed": k.integer(0),
            "validate_every": k.optional_integer(1),
            "validation_episodes": k.integer(2),
            "checkpoint_every": k.integer(1),
            "dispatch": k.integer(1),
            "place": k.choice("DEVICE"),
            "progress": k.FLAG,
            "on_dispatch": k.OPTIONAL_FUNCTION,
        },
        slow=True,
    ),
    Call(
        "metajax.runs.load_run",
        runs.load_run,
        lambda: {"folder": things.run().folder},
        {"folder": k.PATH.also(lambda: {"nothing there": "no/such/folder"})},
        late=True,
    ),
    Call(
        "metajax.runs.evaluate_run",
        runs.evaluate_run,
        lambda: {"run": things.run(), "episodes": 2},
        {
            "run": RUN,
            "episodes": k.optional_integer(2),
            "place": k.choice("DEVICE"),
            **OF_BOTH,
        },
        slow=True,
        late=True,
    ),
    Call(
        "metajax.runs.report_run",
        _report,
        lambda: {"run": things.run()},
        {"run": RUN, "folder": k.OPTIONAL_PATH, **OF_BOTH},
        slow=True,
        late=True,
    ),
    *[
        Call(
            f"metajax.runs.Run.{method}",
            lambda method=method, **given: getattr(things.run(), method)(**given),
            dict,
            {"which": WHICH},
            slow=True,
            late=True,
        )
        for method in ("params", "state")
    ],
    Call(
        "metajax.runs.Run.built",
        lambda **given: things.run().built(**given),
        dict,
        {"record_steps": k.STEPS},
        late=True,
    ),
)
