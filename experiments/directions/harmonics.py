"""Even spherical harmonics from values in few directions, as in diffusion imaging."""

from typing import Any

import numpy as np
import scipy.special

from experiments.directions.sets import directions, forms_of

SETTINGS = {
  "cpu": {"degree": 6, "counts": [32, 64, 128], "seeds": list(range(8))},
  "smoke": {"degree": 2, "counts": [8], "seeds": [0, 1, 2]},
}


def even_harmonics(units: np.ndarray, degree: int) -> np.ndarray:
  """Real harmonics of even degrees up to this, orthonormal on the sphere.

  Args:
    units: directions ``[n, 3]``.
    degree: the largest.

  Returns:
    ``[n, (degree + 1) (degree + 2) / 2]``.
  """
  polar = np.arccos(np.clip(units[:, 2], -1.0, 1.0))
  azimuth = np.arctan2(units[:, 1], units[:, 0])
  columns = []
  for l in range(0, degree + 1, 2):
    for m in range(l + 1):
      value = scipy.special.sph_harm_y(l, m, polar, azimuth)
      columns += [value.real] if m == 0 else [2**0.5 * value.real, 2**0.5 * value.imag]
  return np.stack(columns, -1)


def compute(degree: int, counts: list[int], seeds: list[int]) -> dict[str, Any]:
  """Condition numbers of the least squares problem.

  Args:
    degree: the largest of the harmonics.
    counts: of directions.
    seeds: of these.

  Returns:
    ``"conditions"``: of each count ``{form: [seeds]}``.
  """
  found = [
    {
      form: [
        round(float(np.linalg.cond(even_harmonics(units, degree))), 6)
        for units in (directions(form, n, 3, seed) for seed in seeds)
      ]
      for form in forms_of(3)
    }
    for n in counts
  ]
  return {"conditions": found}
