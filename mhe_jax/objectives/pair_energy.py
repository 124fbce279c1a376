"""The paper's objective: the mean energy of all pairs."""

import dataclasses
from typing import Any

from mhe_jax.objectives.base import Objective, check_hashable
from mhe_jax.pair_sum.mean import pair_energy
from mhe_jax.potentials.base import Potential


@dataclasses.dataclass(frozen=True)
class PairEnergy(Objective):
  """The mean pair energy of a potential, see :func:`mhe_jax.hyperspherical_energy`."""

  potential: Potential

  def __str__(self):
    return str(self.potential)  # In errors, as the user gave it.

  @property
  def takes_shards(self) -> bool:
    return True

  def evaluate(self, units, *, half_space, key):
    del key
    return pair_energy(units, self.potential, half_space=half_space)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    bound = self.potential.lower_bound(n, d, half_space=half_space)
    return bound, self.potential.random_mean(d, half_space=half_space, n=n)


def as_objective(x: Any, name: str = "potential") -> Objective:
  """An argument as an objective: a potential is that of its mean energy.

  Args:
    x: the argument.
    name: of it, for the error.

  Raises:
    TypeError: it is neither, or has no hash.
  """
  objective = PairEnergy(x) if isinstance(x, Potential) else x
  if not isinstance(objective, Objective):
    is_class = isinstance(x, type) and issubclass(x, (Objective, Potential))
    raise TypeError(
      f"{name} must be a Potential such as Riesz(1.0) or Gaussian(2.0), or another "
      f"Objective, got {f'the class {x.__name__}: call it' if is_class else repr(x)}."
    )
  check_hashable(objective)
  return objective
