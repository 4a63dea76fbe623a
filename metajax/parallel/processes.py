"""The processes of a run: how they find each other, and agree."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.checks.settings import check_texts
from metajax.parallel.watching import watch_processes


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
    heartbeat: int = 30,
) -> None:
    """Joins this process to the others of a run; call it before anything is computed.

    Every process runs the same program. Afterwards `jax.devices()` are the devices of all of them,
    which `task_mesh` puts on one mesh. Under SLURM, Open MPI, on TPU pods and in Kubernetes (with
    `jax[k8s]`) JAX finds the arguments itself. CPU devices talk through gloo.

    None of them waits for one that is gone. Where an exception ends one, the others exit within
    seconds, with status 1 and its message on stderr; so they do while they train (`train`) where
    one ends in any way. One that is killed is missed when gloo's connection to it breaks, or
    without gloo after `heartbeat` seconds.

    Args:
      coordinator: `host:port` of process 0, reachable from all.
      processes: how many there are.
      process: which of them this is, in `[0, processes)`.
      timeout: seconds to wait for the others.
      heartbeat: seconds without a sign of life after which one counts as killed, and JAX ends the
        others.

    Raises:
      TypeError: a number is no integer, or `coordinator` no string.
      ValueError: it is below 1, an argument is missing and no cluster was found that tells it,
        `process` is out of range, or `coordinator` has no port.
      RuntimeError: JAX has computed something already, or the processes were started before.
    """
    check_integers(1, timeout=timeout, heartbeat=heartbeat)
    if jax.distributed.is_initialized():
        raise RuntimeError("start_processes was called before; expected one call a process")
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{missing[0]} is not given; expected all of {', '.join(given)}, or none")
    check_optional_integers(1, processes=processes)
    check_optional_integers(0, process=process)
    check_integers(1, timeout=timeout)
    if coordinator is not None:
        check_texts(coordinator=coordinator)
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"process={process} of {processes}; expected 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator={coordinator!r}; expected host:port, such as node1:12345")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=None if missing else "deactivate",
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        if not missing:
            raise
        raise ValueError(
            "no cluster was found that says who the processes of this run are (SLURM, Open MPI, "
            "TPU pods and Kubernetes do); expected start_processes(coordinator='host:port', "
            "processes=..., process=...)"
        ) from error
    watch_processes()


def largest_of_processes(number: int) -> int:
    """The largest of the processes' numbers, on each of them."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def texts_of_processes(text: str) -> list[str]:
    """The processes' texts, on each of them."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    longest = largest_of_processes(len(own))
    padded = np.zeros(longest, np.uint8)
    padded[: len(own)] = own
    everyone = multihost_utils.process_allgather(padded)
    return [bytes(each).rstrip(b"\0").decode() for each in everyone]
