"""Settings of the whole test run, and the data folders that tests may read."""

import gc
import itertools
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

# Tests compile far more than they run: leave out what the compiler does to make programs fast,
# and take its older generator of fused loops, where there is one: it is done in half the time.
_FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(_FLAGS)
import jax  # noqa: E402 (it reads the flags)

# Many tests compile the same programs: those of a worker, and what it starts, share them. Not so
# two workers: one would read what the other has not written to the end.
_PROGRAMS = tempfile.TemporaryDirectory(prefix="metajax-tests-", ignore_cleanup_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
jax.config.update("jax_compilation_cache_dir", _PROGRAMS.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

# Decoded images are kept by all workers in one folder, and by none in the user's.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _DECODED = tempfile.TemporaryDirectory(prefix="metajax-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = _DECODED.name

pytest.register_assert_rewrite("contract")
gc.set_threshold(200_000, 50, 50)  # Tracing makes many objects, and hardly any cycles.

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Where there are workers, one runs all tests of a file: they share compiled functions."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "loadfile"


_MOST_MAPPINGS = 25_000
_ran = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Programs are dropped before their pieces of memory are more than Linux gives a process.

    That is 65,530, three a piece of code; a worker of the slow tests would need as many, and die.
    """
    maps = Path("/proc/self/maps")
    if next(_ran) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def float64() -> Iterator[None]:
    """Runs a test in float64; truth tests ask for it."""
    with jax.enable_x64(True):
        yield


def _folder(variable: str, name: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: no {name} to read")
    folder = Path(value) / name
    if not folder.exists():
        pytest.skip(f"{folder} does not exist")
    return folder


@pytest.fixture
def references() -> Path:
    """The folder of meta-gradients computed by PyTorch."""
    return _folder("METAJAX_REFERENCES_DIR", "")


@pytest.fixture
def omniglot_folder() -> Path:
    """The folder of real Omniglot."""
    return _folder("METAJAX_DATA_DIR", "omniglot")
