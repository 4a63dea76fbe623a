"""Episodes: samplers that run on the device, and the data sets they draw from."""

from metajax.data.episodes import ImageEpisodes, image_episodes
from metajax.data.glyphs import glyphs
from metajax.data.omniglot import omniglot
from metajax.data.sinusoid import sinusoid, sinusoid_episodes

__all__ = [
    "ImageEpisodes",
    "glyphs",
    "image_episodes",
    "omniglot",
    "sinusoid",
    "sinusoid_episodes",
]
