"""Episodes: samplers, and the data sets they draw from."""

from metajax.data.augmentation import Augmentation, augmentation
from metajax.data.classes import ImageClasses, group_by_label, image_classes
from metajax.data.device import ImageEpisodes
from metajax.data.draws import Drawn, Places
from metajax.data.episodes import image_episodes, listed_episodes, varying_episodes
from metajax.data.files.folder import image_folder
from metajax.data.files.image_csv import image_csv
from metajax.data.glyphs import glyphs
from metajax.data.host import HostEpisodes
from metajax.data.joined import join_classes
from metajax.data.omniglot.download import download_omniglot
from metajax.data.omniglot.reading import omniglot, omniglot_classes
from metajax.data.omniglot.splits import LakeRuns, lake_runs
from metajax.data.sinusoid import sinusoid, sinusoid_episodes
from metajax.data.tfds.cifar import cifar_fs, fc100
from metajax.data.tfds.omniglot import tfds_omniglot
from metajax.data.tfds.reading import tfds_classes

__all__ = [
    "Augmentation",
    "Drawn",
    "HostEpisodes",
    "ImageClasses",
    "ImageEpisodes",
    "LakeRuns",
    "Places",
    "augmentation",
    "cifar_fs",
    "download_omniglot",
    "fc100",
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
    "sinusoid",
    "sinusoid_episodes",
    "tfds_classes",
    "tfds_omniglot",
    "varying_episodes",
]
