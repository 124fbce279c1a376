"""Energies of known size in relative units: 0 is the bound, 1 random directions."""

import dataclasses

from mhe_jax import Riesz, energy_lower_bound, uniform_energy


@dataclasses.dataclass(frozen=True)
class Scale:
  """Energies of n neurons of d weights, full space: classes and tokens have signs.

  With far more neurons than weights the bound is out of reach: even a tight frame, of
  which a quadratic energy is least, has an excess of about 1 - d / n. So 1 is nearly
  the best that there is, and what is above it is redundancy.

  Attributes:
    bound: no n directions have less.
    random: mean of random directions.
  """

  bound: float
  random: float

  @classmethod
  def of(cls, n: int, d: int, s: float) -> "Scale":
    """That of the Riesz energy."""
    potential = Riesz(s)
    return cls(energy_lower_bound(n, d, potential), uniform_energy(d, potential))

  @property
  def unit(self) -> float:
    """Energy of an excess of 1."""
    return self.random - self.bound

  def excess(self, energy: float) -> float:
    """Relative excess of a mean energy."""
    return (energy - self.bound) / self.unit
