"""Minimum hyperspherical energy for JAX: diverse neurons for any Flax model.

>>> import jax.numpy as jnp
>>> from mhe_jax import Riesz, hyperspherical_energy
>>> float(hyperspherical_energy(jnp.eye(4), Riesz(2.0)))
0.5
"""

from importlib.metadata import version as _version

from mhe_jax.diagnostics import LayerReport, Report, describe
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.estimates import sampled_energy, sampled_energy_and_error
from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.model import layer_rules
from mhe_jax.layers.rules import LayerRule
from mhe_jax.layers.select import neuron_matrices
from mhe_jax.minimize import minimize_energy
from mhe_jax.muon import muon_dimension_numbers
from mhe_jax.network import layer_energies, layer_excess, network_energy
from mhe_jax.neurons import batch_energy, nearest_neurons, neuron_energies
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.fitted import Adversarial, AnglePreserving
from mhe_jax.objectives.gram import LogDet, Orthonormality
from mhe_jax.objectives.grouped import Grouped
from mhe_jax.objectives.log_mean import LogMean
from mhe_jax.objectives.mean_direction import MeanDirection
from mhe_jax.objectives.nearest import KoLeo, Separation
from mhe_jax.objectives.poles import Covering, Polarization
from mhe_jax.objectives.projected import Projected
from mhe_jax.objectives.relative import RECOMMENDED, RelativeExcess
from mhe_jax.objectives.sampled import Sampled
from mhe_jax.objectives.sliced import SlicedUniformity
from mhe_jax.optimizers import (
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.gaussian import Gaussian
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.spread import SpreadState, spread
from mhe_jax.theory import energy_lower_bound, relative_excess, uniform_energy
from mhe_jax.transforms import HypersphericalEnergyState, add_hyperspherical_energy

__version__ = _version("mhe_jax")

__all__ = [
  "RECOMMENDED",
  "Adversarial",
  "AnglePreserving",
  "Covering",
  "Gaussian",
  "Grouped",
  "HypersphericalEnergyState",
  "KoLeo",
  "LayerReport",
  "LayerRule",
  "LogDet",
  "LogMean",
  "MeanDirection",
  "NeuronAxes",
  "Objective",
  "Orthonormality",
  "Polarization",
  "Potential",
  "Projected",
  "RelativeExcess",
  "Report",
  "Riesz",
  "Sampled",
  "Separation",
  "SlicedUniformity",
  "SpreadState",
  "add_hyperspherical_energy",
  "batch_energy",
  "describe",
  "energy_lower_bound",
  "hyperspherical_energy",
  "layer_energies",
  "layer_excess",
  "layer_rules",
  "minimize_energy",
  "muon_dimension_numbers",
  "nearest_neurons",
  "network_energy",
  "neuron_energies",
  "neuron_matrices",
  "relative_excess",
  "sampled_energy",
  "sampled_energy_and_error",
  "spread",
  "uniform_energy",
  "with_decoupled_hyperspherical_energy",
  "with_hyperspherical_energy",
]
