"""Experiments, each runnable as ``python -m experiments.NAME``."""

import importlib.util

_NEEDED = ("filelock", "grain", "orbax", "rich", "tyro")

if _missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
  raise ModuleNotFoundError(
    f"the experiments need {', '.join(_missing)}: pip install -e '.[experiments]' in "
    "the clone of mhe_jax"
  )
