"""How much of a training step goes into sampling its episodes on the device.

Two compiled programs a setting, each a `lax.scan` over steps: sampling alone, and the whole meta-step
(sampling, inner loops, gradient, Adam). They run in turns; medians are compared.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import compiled_memory, interleaved, plain_table, wide_console, write

import metajax as mj
