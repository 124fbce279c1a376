"""Images of very many people, of whom few are seen often: as features, and made up.

Each person is a random direction c; the feature of an image is c, plus what all
features have in common, plus noise, of the ratios that are given:

  x = normalize(c + common * m + noise * e / sqrt(d))

with a fixed direction m and standard normal e. Features of networks do have a common
part: after a relu their mean is not zero. How often people come follows Zipf's law: the
k-th of them in proportion to k to the power of -exponent.

People are made of their numbers, and need no memory.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Identities:
  """The distribution of the images.

  Attributes:
    classes: people.
    d: of the features.
    common: length of what all have in common; that of a person is 1.
    noise: root mean square length of the noise.
    exponent: of Zipf's law; 0 for equally many images of each.
    seed: of the people.
  """

  classes: int
  d: int
  common: float
  noise: float
  exponent: float
  seed: int

  def labels(self, count: int, key: tuple[int, ...]) -> np.ndarray:
    """Labels ``[count]``, int32, in the order of how often they come; 0 most often."""
    uniform = np.random.default_rng((self.seed, *key)).random(count)
    found = np.searchsorted(_cumulative(self.classes, self.exponent), uniform)
    return found.astype(np.int32)

  def features(self, labels: jax.Array, key: jax.Array) -> jax.Array:
    """One image of each label, ``[count, d]``, of unit length; can be traced."""
    people, shared = jax.random.split(jax.random.key(self.seed))
    direction = lambda key: jax.random.normal(key, (self.d,))  # noqa: E731
    of_label = jax.vmap(lambda label: direction(jax.random.fold_in(people, label)))
    noise = jax.random.normal(key, (len(labels), self.d)) / math.sqrt(self.d)
    common = _unit(direction(shared))[None]
    return _unit(_unit(of_label(labels)) + self.common * common + self.noise * noise)


def _unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@functools.cache
def _cumulative(classes, exponent):
  """Probabilities up to each class."""
  sums = np.cumsum(np.arange(1.0, classes + 1.0) ** -exponent)
  return sums / sums[-1]
