"""Episodes: samplers that run on the device, and the data sets they draw from."""

from metajax.data.classes import ImageClasses, group_by_label, image_classes
from metajax.data.draws import Drawn, Places
from metajax.data.episodes import (
    ImageEpisodes,
    image_episodes,
    listed_episodes,
    varying_episodes,
)
from metajax.data.glyphs import glyphs
from metajax.data.host import HostEpisodes
from metajax.data.joined import join_classes
from metajax.data.omniglot import omniglot
from metajax.data.sinusoid import sinusoid, sinusoid_episodes

__all__ = [
    "Drawn",
    "HostEpisodes",
    "ImageClasses",
    "ImageEpisodes",
    "Places",
    "glyphs",
    "group_by_label",
    "image_classes",
    "image_episodes",
    "join_classes",
    "listed_episodes",
    "omniglot",
    "sinusoid",
    "sinusoid_episodes",
    "varying_episodes",
]
