import pytest

from metajax.command_line.option_names import as_typed
from metajax.command_line.train import Train


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("ways=0; expected 1 or more, or None", "--ways 0; expected 1 or more"),
        ("train_ways=0; expected an integer", "--train-ways 0; expected an integer"),
        ("no class; expected validate_every=None", "no class; leave --validate-every out"),
        ("filters=3; expected None: it has none", "--filters 3; leave it out: it has none"),
        ("'/my data_dir/seed=1' as data_dir, or", "'/my data_dir/seed=1' as --data-dir, or"),
        ("one's own seed=1 isn't", "one's own --seed 1 isn't"),
        ("training.outer_rate=1 of a/data_dir", "training.outer_rate=1 of a/data_dir"),
        ("the seed of the pictures; folder=3", "the seed of the pictures; folder=3"),
    ],
)
def test_arguments_are_called_as_they_are_typed(sentence: str, typed: str) -> None:
    assert as_typed(sentence, Train("maml", "run")) == typed
