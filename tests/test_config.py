"""Settings of runs: checks, names, schedules, networks."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import models
from experiments.classification.arms import HALF_MHE, MHE
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import PRESETS, Config
from experiments.classification.report import RESULTS
from experiments.classification.task import Run
from experiments.data import load
from experiments.data.batches import GRAY
from experiments.errors import InputError
from experiments.regularizers import Regularizer
from experiments.runs.results import settings_of

SMOKE = PRESETS["smoke"]


def test_bad_settings_are_named():
  with pytest.raises(ValueError, match=r"model must be cnn-N .* got 'vgg-16'"):
    models.build("vgg-16", width=8, num_classes=10)
  with pytest.raises(ValueError, match=r"'none' has no weight, got 2\.0"):
    Regularizer(weight=2.0)
  with pytest.raises(ValueError, match=r"shrink must divide .* \(28, 28\), got 8"):
    Run(dataclasses.replace(SMOKE, shrink=8), load("digits"))


@pytest.mark.parametrize(
  ("setting", "value", "message"),
  [
    ("width", 0, "width must be at least 1, got 0"),
    ("images_per_class", -5, "images_per_class must be at least 0, got -5"),
    ("warmup", -3, "warmup must be at least 0"),
    ("weight_decay", -1.0, "weight_decay must be at least 0"),
    ("label_smoothing", 5.0, "label_smoothing must be 0 to 1, got 5"),
    ("floor", 1.0, "floor must be 0 or more and below 1, got 1"),
    ("learning_rate", 0.0, "learning_rate must be positive"),
    ("decay_at", (0.5, 1.5), "decay_at must be shares from 0 to 1"),
    ("dropped", ((1, 0.5), (1, 0.9)), "dropped must name each class once"),
    ("dropped", ((1, 1.5),), "dropped must be classes and shares from 0 to 1"),
    ("dropped", ((-1, 0.5),), "dropped must be classes and shares from 0 to 1"),
    ("dropped", (1, 0.5), "dropped must be of type .*, got 1"),
    ("dataset", "svhn", r"dataset must be one of digits, cifar10, .*, got 'svhn'"),
    ("model", "cnn-7x", r"model must be cnn-N .*, got 'cnn-7x'"),
    ("model", "cnn-09", r"model must be cnn-N .*, got 'cnn-09'"),
    ("model", "cnn-7", r"model must be cnn-N .*, got 'cnn-7'"),
    ("seed", -1, "seed must be at least 0, got -1"),
    ("seed", 2**32, r"seed must be less than 2\*\*32"),
    ("regularizer", "mhe", "regularizer must be of type Regularizer, got 'mhe'"),
  ],
)
def test_each_bad_setting_is_named(setting, value, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(SMOKE, **{setting: value})


SETTINGS = [(SMOKE, field) for field in dataclasses.fields(Config)]
SETTINGS += [(MHE, field) for field in dataclasses.fields(Regularizer)]


@pytest.mark.parametrize(("settings", "field"), SETTINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 10.5, "bogus", None, [[]]])
def test_no_setting_takes_everything(settings, field, value):
  """What is of another type, no finite number or negative is named."""
  if value == 10.5 and field.name in ("learning_rate", "weight_decay", "s", "weight"):
    return
  with pytest.raises(InputError, match=rf"^{field.name} must be .*, got "):
    dataclasses.replace(settings, **{field.name: value})


@pytest.mark.parametrize(("settings", "field"), SETTINGS)
def test_no_number_is_a_bool_and_the_reverse(settings, field):
  value = getattr(settings, field.name)
  other = int(value) if isinstance(value, bool) else True
  with pytest.raises(InputError, match=rf"^{field.name} must be .*, got {other}\.$"):
    dataclasses.replace(settings, **{field.name: other})


@pytest.mark.parametrize("number", [float, np.float64, np.float32, np.int64, np.uint8])
def test_equal_settings_have_one_name(number):
  """Whatever the type of their numbers, of lists for tuples, of their order."""
  plain = dataclasses.replace(
    SMOKE, width=10, warmup=3, learning_rate=1.0, label_smoothing=0.0, seed=7,
    dropped=((1, 1.0), (3, 0.0)), decay_at=(0.0, 1.0),
    regularizer=Regularizer("mhe", 1.0, weight=10.0),
  )  # fmt: skip
  same = dataclasses.replace(
    SMOKE, width=number(10), warmup=number(3), learning_rate=number(1),
    label_smoothing=-0.0, seed=number(7), decay_at=[number(1), number(0)],
    dropped=[[number(3), number(0)], [number(1), number(1)]],
    regularizer=Regularizer("mhe", number(1), weight=number(10)),
  )  # fmt: skip
  assert (same, same.name, repr(same)) == (plain, plain.name, repr(plain))
  assert json.dumps(dataclasses.asdict(same)) == json.dumps(dataclasses.asdict(plain))


def test_committed_results_keep_their_names():
  paths = sorted(RESULTS.glob("*.json"))
  assert paths
  assert [settings_of(path, Config).name for path in paths] == [
    path.stem for path in paths
  ]


@pytest.mark.parametrize("model", ["cnn-3", "resnet-8"])
def test_images_may_be_shrunk_as_far_as_the_network_goes(model, as_users):
  config = dataclasses.replace(SMOKE, model=model, shrink=14)
  if model == "resnet-8":
    Run(config, load("digits"))
  else:
    with pytest.raises(InputError, match=r"shrink must leave 8 x 8 pixels .* got 14"):
      Run(config, load("digits"))


def test_names_of_runs_tell_all_settings_apart():
  configs = [
    SMOKE,
    dataclasses.replace(SMOKE, seed=1),
    dataclasses.replace(SMOKE, steps=8),
    dataclasses.replace(SMOKE, regularizer=MHE),
    dataclasses.replace(SMOKE, regularizer=HALF_MHE),
    dataclasses.replace(SMOKE, dropped=((0, 0.5),)),
  ]
  assert len({config.name for config in configs}) == len(configs)


def test_settings_survive_the_json():
  configs = [arm.config for sweep in sweeps_of("cpu").values() for arm in sweep.arms]
  for config in configs:
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    assert Config.from_json(settings) == config


def test_a_new_setting_renames_no_run():
  """The digest is of what differs from the defaults."""
  assert Config().name == "cifar100_cnn-9-w64_baseline_seed0_44136fa3"  # Of "{}".


def test_the_schedule_of_the_paper(as_users):
  """Learning rate 0.1, divided by 10 after 20, 30 and 37.5 thousand steps.

  The warm-up of the preset is ours.
  """
  rate = dataclasses.replace(PRESETS["paper"], warmup=0).learning_rate_at
  for step, expected in (
    (0, 0.1), (19999, 0.1), (20000, 0.01), (30000, 1e-3), (37500, 1e-4), (42499, 1e-4),
  ):  # fmt: skip
    np.testing.assert_allclose(rate(jnp.asarray(step)), expected, rtol=1e-5)
  rate = PRESETS["paper"].learning_rate_at
  for step, expected in ((0, 0.0002), (249, 0.05), (499, 0.1), (19999, 0.1)):
    np.testing.assert_allclose(rate(jnp.asarray(step)), expected, rtol=1e-5)


def test_all_but_biases_decay(as_users):
  model = models.build("cnn-3", width=2, num_classes=3)
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.float32))["params"]
  config = dataclasses.replace(SMOKE, learning_rate=1.0, weight_decay=0.5)
  tx = config.optimizer()
  zeros = jax.tree.map(jnp.zeros_like, params)
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(zeros, tx.init(ones), ones)
  assert float(abs(updates["score"]["bias"]).max()) == 0.0
  for leaf in (updates["score"]["kernel"], updates["norm0_0"]["scale"]):
    np.testing.assert_allclose(leaf, -0.5, rtol=1e-6)


def test_the_second_step_has_momentum(as_users):
  """0.1 (1 + 0.9)."""
  config = dataclasses.replace(SMOKE, weight_decay=0.0)
  tx = config.optimizer()
  params = {"score": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
  grads = jax.tree.map(jnp.ones_like, params)
  state = tx.init(params)
  first, state = tx.update(grads, state, params)
  second, _ = tx.update(grads, state, optax.apply_updates(params, first))
  np.testing.assert_allclose(second["score"]["bias"], -0.19, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "size", "classes", "millions"),
  [("resnet-18", 224, 1000, 11.69), ("resnet-34", 224, 1000, 21.80)],
)
def test_networks_for_imagenet_have_their_known_size(name, size, classes, millions):
  model = models.build(name, width=64, num_classes=classes)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("authors", [False, True])
def test_details_of_the_authors_network(authors, as_users):
  """No bias in the classifier; running averages of 1,000 batches; epsilon 1e-3."""
  model = models.build("cnn-3", width=2, num_classes=3, authors=authors)
  images = 100.0 * jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float32)
  variables = model.init(jax.random.key(0), images)
  assert ("bias" in variables["params"]["score"]) != authors
  _, new = model.apply(variables, images, train=True, mutable=["batch_stats"])
  # The variance goes from 1 to that of the batch, by a share of 0.1 or 0.001.
  x = jax.lax.conv_general_dilated(
    images, variables["params"]["conv0_0"]["kernel"], (1, 1), "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  share = 0.001 if authors else 0.1
  np.testing.assert_allclose(
    new["batch_stats"]["norm0_0"]["var"], 1 + share * (x.var((0, 1, 2)) - 1), rtol=1e-4
  )
  zeros = jax.tree.map(jnp.zeros_like, variables)
  zeros["params"]["norm0_0"]["scale"] = jnp.ones(2, jnp.float32)
  _, states = model.apply(
    zeros | {"params": zeros["params"] | {"conv0_0": variables["params"]["conv0_0"]}},
    images,
    capture_intermediates=lambda module, _: module.name == "norm0_0",
    mutable=["intermediates"],
  )
  (normed,) = states["intermediates"]["norm0_0"]["__call__"]
  epsilon = 1e-3 if authors else 1e-5
  np.testing.assert_allclose(normed, x / math.sqrt(epsilon), rtol=1e-4, atol=1e-2)


def test_the_paper_preset_has_the_details_of_the_authors(as_users):
  assert PRESETS["paper"].authors and not PRESETS["cpu"].authors
  share_of_gray = {}
  for authors in (False, True):
    run = Run(dataclasses.replace(SMOKE, authors=authors), load("digits"))
    assert ("bias" in run.state.params["score"]) != authors
    batches = training_batches_of(run)
    share_of_gray[authors] = np.mean([images == GRAY for images, _ in batches])
  assert share_of_gray[False] > 0.05 > 0.02 > share_of_gray[True]


def training_batches_of(run):
  """What its update is given."""
  batches = []

  def update(state, images, labels):
    batches.append((images, labels))
    return state

  run._update = update
  list(run.steps(0, 2))
  return batches
