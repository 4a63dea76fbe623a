"""Episodes: samplers, and the data sets they draw from."""

from metajax.data.augmentations import Augmentation, augmentation
from metajax.data.backbone_features import features
from metajax.data.device_episodes import ImageEpisodes
from metajax.data.episode_draws import Drawn, Places
from metajax.data.fixed_episodes import FixedEpisode
from metajax.data.host_episodes import HostEpisodes
from metajax.data.joined_data_sets import join_classes
from metajax.data.labelled_images import ImageClasses, group_by_label, image_classes
from metajax.data.open_set import with_strangers
from metajax.data.ragged_episodes import pad_episodes
from metajax.data.readers.emoji import emoji
from metajax.data.readers.files.folder import image_folder
from metajax.data.readers.files.image_csv import image_csv
from metajax.data.readers.omniglot.download import download_omniglot
from metajax.data.readers.omniglot.reading import omniglot, omniglot_classes
from metajax.data.readers.omniglot.splits import LakeRuns, lake_runs
from metajax.data.readers.tfds.cifar import cifar_fs, fc100
from metajax.data.readers.tfds.reading import tfds_classes
from metajax.data.samplers import image_episodes, listed_episodes, varying_episodes
from metajax.data.sinusoids import sinusoid, sinusoid_episodes
from metajax.data.stroke_glyphs import glyphs
from metajax.iterable_episodes import IterableEpisodes, from_iterable
from metajax.streaming import stream_episodes

__all__ = [
    "Augmentation",
    "Drawn",
    "FixedEpisode",
    "HostEpisodes",
    "ImageClasses",
    "ImageEpisodes",
    "IterableEpisodes",
    "LakeRuns",
    "Places",
    "augmentation",
    "cifar_fs",
    "download_omniglot",
    "emoji",
    "fc100",
    "features",
    "from_iterable",
    "glyphs",
    "group_by_label",
    "image_classes",
    "image_csv",
    "image_episodes",
    "image_folder",
    "join_classes",
    "lake_runs",
    "listed_episodes",
    "omniglot",
    "omniglot_classes",
    "pad_episodes",
    "sinusoid",
    "sinusoid_episodes",
    "stream_episodes",
    "tfds_classes",
    "varying_episodes",
    "with_strangers",
]


def __dir__() -> list[str]:
    return __all__
