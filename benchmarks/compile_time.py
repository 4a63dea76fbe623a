"""How long the recipes' training programs compile, and how long they then take, by XLA's flags.

Each case runs in a process of its own, one after another, since a process compiles differently the
second time: tracing and compiling, and then the median time of an iteration in a dispatch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from published import commit_here, told_command
from records import devices, plain_table, processor, wide_console, write

_CASES = {
    "as it is": "",
    "no autotuning": "--xla_gpu_autotune_level=0",
    "no Triton products": "--xla_gpu_enable_triton_gemm=false",
}


def one(cell: str, unroll: bool, iterations: int) -> dict[str, float]:
    """Of one cell, in this process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from published_cells import asked

    import metajax as mj

    [(recipe, _, _)] = asked([cell])
    training = recipe.training
    built = mj.recipes.build(recipe, backward=mj.Backward(unroll=unroll))
    data = os.environ.get("METAJAX_DATA_DIR", "data")
    sample = mj.recipes.sampler(training.data, training.drawing, data, pixels=training.pixels)
    shape = jax.eval_shape(sample, jax.random.key(0)).support.inputs.shape
    params = built.learner.init(jax.random.key(0), jnp.zeros((1, *shape[1:])))
    result = mj.train(
        built.learner,
        built.optimizer,
        mj.init_state(params, built.optimizer, jax.random.key(1)),
        sample,
        iterations=4 * iterations,
        meta_batch=training.meta_batch,
        dispatch=iterations,
        progress=False,
    )
    rates = [record["tasks_per_second"] for record in result.history[1:]]
    return {
        "compile_seconds": result.compile_seconds,
        "ms_an_iteration": 1000 * training.meta_batch / float(np.median(rates)),
    }


def run(args: argparse.Namespace) -> None:
    console, records = wide_console(), []
    for cell in args.cells:
        for case in args.cases:
            for unroll in args.unroll:
                flags = f"{os.environ.get('XLA_FLAGS', '')} {_CASES[case]}".strip()
                with tempfile.TemporaryDirectory() as folder:
                    out = Path(folder) / "one.json"
                    words = [cell, str(int(unroll)), str(args.iterations), str(out)]
                    code = subprocess.run(
                        [sys.executable, __file__, "--one", *words],
                        env={**os.environ, "XLA_FLAGS": flags},
                    ).returncode
                    measured = {} if code else json.loads(out.read_text())
                records.append(
                    {
                        "cell": cell,
                        "flags": case,
                        "steps": "unrolled" if unroll else "loop",
                        "compile_seconds": measured.get("compile_seconds"),
                        "ms_an_iteration": measured.get("ms_an_iteration"),
                    }
                )
                console.print(records[-1])
    console.print(plain_table("compile time", records, list(records[0])))
    made = {"command": args.command, "commit": commit_here(), "device": devices()}
    write({**made, "processor": processor(), "records": records}, args.out)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--cells", nargs="+", default=["maml-omniglot-20w1s"])
    out.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES))
    out.add_argument("--unroll", nargs="+", type=int, default=[1], help="0 a loop, 1 unrolled")
    out.add_argument("--iterations", type=int, default=200, help="a dispatch, of four")
    out.add_argument("--out", type=Path, default=Path("runs/compile_time.json"))
    return out


def main(given: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if given is None else list(given)
    if words[:1] == ["--one"]:
        cell, unroll, iterations, out = words[1:]
        write(one(cell, unroll == "1", int(iterations)), Path(out))
    else:
        args = parser().parse_args(words)
        args.command = told_command("compile_time.py", words)
        run(args)


if __name__ == "__main__":
    main()
