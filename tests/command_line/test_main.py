import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from tqdm import tqdm

import metajax
from metajax.command_line import exit_codes, fit, main, verbs
from metajax.kinds import check_words
from metajax.user_warnings import warn_user


@pytest.fixture
def ended(monkeypatch, capsys):
    """How the command ends, and what it tells, where its verb does something else."""

    def run(verb, *options: str) -> tuple[int, str, str]:
        monkeypatch.setitem(verbs._RUN, fit.Fit, lambda args, out: verb(out))
        code = main.main(["fit", "network", "folder", *options])
        return code, *capsys.readouterr()

    return run


def _raises(error: BaseException):
    def verb(out):
        raise error

    return verb


def test_a_verb_tells_its_result_and_how_it_ended(ended):
    def verb(out):
        out.say("hello")
        out.result({"a": 1})
        return exit_codes.SOME_UNREAD

    assert ended(verb) == (3, "hello\n", "")
    assert ended(verb, "--json") == (3, '{"a": 1}\n', "")


def test_what_a_check_finds_is_a_sentence(ended):
    def verb(out):
        check_words(("ridge", "means"), head="rigde")

    sentence = '--head \'rigde\'; expected "ridge" or "means"'
    assert ended(verb) == (1, "", f"error: {sentence}\n")
    code, results, rest = ended(verb, "--json")
    assert (code, json.loads(results), rest) == (1, {"error": sentence}, f"error: {sentence}\n")
    _, _, rest = ended(verb, "--traceback")
    assert rest.startswith("Traceback")
    assert rest.endswith(f"error: {sentence}\n")


def test_a_check_may_call_a_check_that_calls_none_of_ours(ended):
    def verb(out):
        metajax.data.image_folder(3, "train", size=8)

    code, _, rest = ended(verb)
    assert code == 1
    assert rest.startswith("error: ")
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.png"), "'x.png': no such file"),
        (OSError(28, "No space left on device"), "no space left on device"),
        (OSError("3 pictures cannot be read"), "3 pictures cannot be read"),
        (MemoryError("Unable to allocate 9 TiB"), "there is not enough memory: Unable to alloc"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 TiB"), "there is not enough memory: RESOURCE"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), "PIL is not installed; pip"),
    ],
)
def test_what_the_system_says_is_a_sentence(ended, error, sentence):
    code, results, rest = ended(_raises(error))
    assert (code, results) == (1, "")
    assert rest.startswith(f"error: {sentence}")
    assert rest.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("no check"), AssertionError("wrong"), KeyError("a")])
def test_what_no_check_found_is_shown_whole_as_our_mistake(ended, error):
    code, results, rest = ended(_raises(error))
    assert (code, results) == (70, "")
    assert rest.startswith("Traceback")
    assert "a mistake in metajax, not in what you gave" in rest
    assert f"metajax {metajax.__version__}, JAX " in rest


def test_a_slip_within_the_library_is_no_check(ended):
    def verb(out):
        metajax.accuracy(np.zeros(3))  # An argument is missing: raised by Python.

    assert ended(verb)[0] == 70


def test_warnings_are_lines(ended):
    def verb(out):
        warn_user("few pictures; expected skip_unreadable=True")
        warnings.warn("an old name", DeprecationWarning, stacklevel=1)
        return 0

    assert ended(verb) == (0, "", "warning: few pictures; expected --skip-unreadable True\n")


def test_bars_of_the_library_are_for_terminals(ended):
    def verb(out):
        for _ in tqdm(range(2), desc="reading"):
            pass
        return 0

    before = tqdm.__init__
    assert ended(verb) == (0, "", "")
    assert tqdm.__init__ is before


def test_signals_end_it_as_shells_number_them(ended):
    def terminated(out):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    before = signal.getsignal(signal.SIGTERM)
    assert ended(_raises(KeyboardInterrupt())) == (130, "", "\nstopped by Ctrl-C\n")
    assert ended(terminated) == (143, "", "stopped by SIGTERM\n")
    assert signal.getsignal(signal.SIGTERM) is before
    code, results, _ = ended(terminated, "--json")
    assert (code, json.loads(results)) == (143, {"error": "stopped by SIGTERM"})


def test_a_result_before_a_signal_stays_the_one_object(ended):
    def verb(out):
        out.result({"a": 1})
        raise KeyboardInterrupt

    assert ended(verb, "--json") == (130, '{"a": 1}\n', "\nstopped by Ctrl-C\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_destructor_swallows_is_not_lost(ended, number, code):
    # What a shell starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    class Swallows:
        def __del__(self):
            signal.raise_signal(number)

    def verb(out):
        Swallows()
        time.sleep(10)
        raise AssertionError("it went on")

    try:
        assert ended(verb)[0] == code
    finally:
        signal.signal(signal.SIGINT, before)


def test_help_names_the_verbs_and_what_to_do_first(capsys):
    assert main.main(["--help"]) == 0
    text, rest = capsys.readouterr()
    assert "metajax fit efficientnet_lite0 flowers -o flowers.mjx" in text
    assert not rest
    assert text.isascii()  # No box where it is no terminal.
    assert "\x1b" not in text
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"metajax {metajax.__version__}\n"


@pytest.mark.parametrize("verb", sorted(each.__name__.lower() for each in verbs._RUN))
def test_every_argument_is_explained(capsys, verb):
    assert main.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    kind = next(each for each in verbs._RUN if each.__name__.lower() == verb)
    for name in kind.__dataclass_fields__:
        assert name.upper() in text or f"--{name.replace('_', '-')}" in text
    for line, after in itertools.pairwise(text.split("\n")):
        if line.startswith("  -") and not after.startswith("     "):
            assert len(line.split("  ")) > 2, f"{line!r} says nothing"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "Expected one of {"),
        (["fti"], "fti"),
        (["fit", "network"], "FOLDER"),
        (["fit", "network", "folder", "--haed", "ridge"], "--head"),
        (["fit", "network", "folder", "--head", "crown"], "mahalanobis"),
    ],
)
def test_what_no_verb_takes_is_an_error_of_usage(capsys, argv, told):
    assert main.main(argv) == 2
    results, rest = capsys.readouterr()
    assert not results
    assert told in rest
    assert "--help" in rest
    assert main.main([*argv, "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": "no verb takes these arguments"}


@pytest.mark.slow
def test_the_process_of_its_own(tmp_path):
    def metajax_command(*argv: str, shell: str = "", **environment: str):
        words = " ".join([sys.executable, "-m", "metajax", *argv, shell])
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", words],
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | environment,
        )

    told = metajax_command("--help")
    assert told.stdout.startswith(b"usage: metajax ")
    # Whoever reads goes away.
    gone = metajax_command("fit", "--help", shell="| true")
    assert gone.returncode == 141
    assert gone.stderr == b""
    for shell in (">/dev/full", ">&-", "2>&-"):
        told = metajax_command("fit", "efficientnet_lite0", "nowhere", "--json", shell=shell)
        assert told.returncode == 1
        assert b"Traceback" not in told.stderr
    assert metajax_command("--help", shell=">/dev/full").stderr.startswith(b"error: the results")
    # A terminal that knows ASCII alone, and a name that is no UTF-8.
    told = metajax_command("fit", "efficientnet_lite0", "résumé", PYTHONIOENCODING="ascii")
    assert told.returncode == 1
    assert b"r\\xe9sum\\xe9" in told.stderr
    told = metajax_command("fit", "efficientnet_lite0", "$'\\xff'")
    assert told.returncode == 1
    assert b"Traceback" not in told.stderr


@pytest.mark.slow
def test_a_process_that_a_signal_ends_is_spared_the_end_of_python():
    code = """
import atexit, os
from metajax.command_line import main

class Left:
    def __del__(self):
        os.abort()

left = Left()
atexit.register(print, "at exit")

def interrupted(argv):
    print("told")
    raise KeyboardInterrupt

main._run = interrupted
main.process()
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 130
    assert told.stdout == "told\nat exit\n"
    assert told.stderr == "\nstopped by Ctrl-C\n"


@pytest.mark.slow
def test_without_tyro_it_says_what_to_install(tmp_path):
    (tmp_path / "tyro.py").write_text("raise ModuleNotFoundError('none', name='tyro')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    told = subprocess.run(
        [sys.executable, "-m", "metajax", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert told.returncode == 1
    assert told.stderr == 'error: the command needs tyro; pip install "metajax[pictures]"\n'


@pytest.mark.slow
def test_help_waits_for_nothing_that_only_verbs_need():
    code = (
        "import sys; from metajax.command_line.main import main; main(['--help']); "
        "print([*{'sklearn', 'PIL', 'matplotlib', 'safetensors'} & {*sys.modules}])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "[]"
