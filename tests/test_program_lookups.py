"""Tables, codebooks, dictionaries and classifiers, against matrices made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import first, in_groups, last
from jax import lax
from programs import arrays, check_program, cross_entropy
from sets import normal32
from trees import F32

X = normal32(2, 8, seed=9)
TOKENS = jnp.arange(10).reshape(2, 5) % 7


# --- tables -------------------------------------------------------------------------


def indexed(table, tokens):
  return table[tokens]


def taken(table, tokens):
  return jnp.take(table, tokens, axis=0)


def one_hot(table, tokens):
  return jax.nn.one_hot(tokens, len(table), dtype=table.dtype) @ table


def compared(table, tokens):
  hot = (tokens[..., None] == jnp.arange(len(table))).astype(table.dtype)
  return jnp.einsum("...v,vd->...d", hot, table)


def sliced(table, tokens):
  row = lambda i: lax.dynamic_slice(table, (i, 0), (1, table.shape[1]))[0]  # noqa: E731
  return jax.vmap(jax.vmap(row))(tokens)


def one_by_one(table, tokens):
  return jnp.stack([jnp.stack([table[i] for i in row]) for row in tokens])


def by_index_in_dim(table, tokens):
  row = lambda i: lax.dynamic_index_in_dim(table, i, keepdims=False)  # noqa: E731
  return lax.map(row, tokens.reshape(-1)).reshape(*tokens.shape, -1)


def scaled(table, tokens):
  return (table * jnp.sqrt(table.shape[1])).astype(table.dtype)[tokens]


LOOKUPS = [
  indexed, taken, one_hot, compared, sliced, one_by_one, by_index_in_dim, scaled
]  # fmt: skip


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_lookups(lookup):
  def forward(params, tokens):
    return jnp.tanh(lookup(params["table"], tokens)) @ params["head"]

  params = arrays(table=(7, 8), head=(8, 5))
  layers = {"table": first, "head": last}
  check_program(forward, params, (TOKENS,), layers, output=["head"])


def test_a_table_of_columns():
  def forward(params, tokens):
    return jnp.tanh(params["table"][:, tokens].T) @ params["head"]

  params = arrays(table=(8, 7), head=(8, 5))
  layers = {"table": last, "head": last}
  check_program(forward, params, (TOKENS[0],), layers, output=["head"])


def test_positions_are_no_neurons():
  def forward(params, x):
    positions = jnp.arange(5)
    distances = positions[:, None] - positions + 4
    x = x + params["absolute"][:5] + params["other"][positions]
    scores = x @ x.swapaxes(1, 2) + params["relative"][distances, 0]
    return jax.nn.softmax(scores) @ x @ params["head"]

  params = arrays(absolute=(9, 8), other=(6, 8), relative=(9, 1), head=(8, 5))
  check_program(forward, params, (normal32(2, 5, 8),), {"head": last}, output=["head"])


def test_factorization_of_a_matrix():
  """Two tables: rows of users and items."""

  def forward(params, users, items):
    u, v = params["users"][users], params["items"][items]
    return (u * v).sum(-1) + params["bias"][users]

  params = arrays(users=(6, 4), items=(9, 4), bias=(6,))
  layers = dict.fromkeys(("users", "items"), first)
  inputs = jnp.array([0, 3]), jnp.array([8, 1])
  check_program(forward, params, inputs, layers)


def test_one_table_that_is_looked_up_and_one_that_is_sampled():
  """Negative samples: rows of the head at places of the data."""

  def loss(params, tokens, labels, negatives):
    h = params["table"][tokens].mean(1)
    wanted = (h * params["head"][labels]).sum(-1)
    others = jnp.einsum("bd,nd->bn", h, params["head"][negatives])
    return jax.nn.softplus(-wanted).mean() + jax.nn.softplus(others).mean()

  params = arrays(table=(7, 4), head=(9, 4))
  inputs = TOKENS, jnp.array([0, 8]), jnp.array([1, 2, 3])
  check_program(loss, params, inputs, dict.fromkeys(params, first))


# --- codebooks ----------------------------------------------------------------------


def by_expansion(z, codes):
  return (z**2).sum(-1, keepdims=True) - 2.0 * z @ codes.T + (codes**2).sum(-1)


def by_broadcasting(z, codes):
  return ((z[..., None, :] - codes) ** 2).sum(-1)


def by_norm(z, codes):
  return jnp.linalg.norm(z[..., None, :] - codes, axis=-1)


def by_vmap(z, codes):
  distance = lambda z, c: jnp.sum((z - c) ** 2)  # noqa: E731
  return jax.vmap(jax.vmap(distance, (None, 0)), (0, None))(z, codes)


DISTANCES = [by_expansion, by_broadcasting, by_norm, by_vmap]


@pytest.mark.parametrize("distances", DISTANCES)
@pytest.mark.parametrize("lookup", [indexed, one_hot])
def test_codebook(distances, lookup):
  def loss(params, x):
    z = jnp.tanh(x @ params["encoder"])
    codes = distances(z, params["codes"]).argmin(-1)
    q = lookup(params["codes"], codes)
    commitment = ((z - lax.stop_gradient(q)) ** 2).mean()
    codebook = ((lax.stop_gradient(z) - q) ** 2).mean()
    y = jax.nn.relu((z + lax.stop_gradient(q - z)) @ params["decoder"]) @ params["out"]
    return ((x - y) ** 2).mean() + codebook + 0.25 * commitment

  params = arrays(encoder=(8, 4), codes=(9, 4), decoder=(4, 6), out=(6, 8))
  layers = dict.fromkeys(("encoder", "decoder", "out"), last) | {"codes": first}
  with jax.numpy_rank_promotion("allow"):
    check_program(loss, params, (X,), layers, output=["out"])


@pytest.mark.parametrize("distances", DISTANCES)
def test_prototypes(distances):
  def loss(params, x, labels):
    z = jax.nn.relu(x @ params["encoder"])
    return cross_entropy(-distances(z, params["prototypes"]), labels)

  params = arrays(encoder=(8, 4), prototypes=(5, 4))
  layers = {"encoder": last, "prototypes": first}
  inputs = X, jnp.array([0, 4])
  check_program(loss, params, inputs, layers, output=["prototypes"])


def test_radial_functions():
  def forward(params, x):
    distances = ((x[:, None] - params["centers"]) ** 2).sum(-1)
    return jnp.exp(-(params["widths"] ** 2) * distances) @ params["head"]

  params = arrays(centers=(9, 8), widths=(9,), head=(9, 3))
  layers = {"centers": first, "head": last}
  check_program(forward, params, (X,), layers, output=["head"])


def test_distances_of_each_channel_to_its_own_means_are_no_product():
  """A mixture for each channel: one weight each, and no sum over a parameter's axis."""

  def forward(params, x):
    return jnp.exp(-((x[..., None] - params["means"]) ** 2)).max(-1) @ params["head"]

  params = arrays(means=(8, 3), head=(8, 3))
  check_program(forward, params, (X,), {"head": last}, output=["head"])


# --- dictionaries -------------------------------------------------------------------


def test_sparse_autoencoder_with_tied_decoder():
  def loss(params, x):
    h = jax.nn.relu((x - params["center"]) @ params["w"] + params["bias"])
    y = h @ params["w"].T + params["center"]
    return ((x - y) ** 2).sum(-1).mean() + jnp.abs(h).sum(-1).mean()

  params = arrays(w=(8, 16), center=(8,), bias=(16,))
  check_program(loss, params, (X,), {"w": last}, output=["w"])


@pytest.mark.parametrize("sparsity", ["l1", "top k"])
def test_sparse_autoencoder_with_its_own_decoder(sparsity):
  """Its decoder is a matrix of as many neurons as there are inputs: say otherwise."""

  def loss(params, x):
    h = (x - params["center"]) @ params["encoder"] + params["bias"]
    if sparsity == "top k":
      values, places = lax.top_k(h, 3)
      rows = jnp.arange(len(h))[:, None]
      h = jnp.zeros_like(h).at[rows, places].set(values)
    h = jax.nn.relu(h)
    directions = params["decoder"]
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    y = h @ directions + params["center"]
    return ((x - y) ** 2).sum(-1).mean() + jnp.abs(h).sum(-1).mean()

  params = arrays(encoder=(8, 16), decoder=(16, 8), center=(8,), bias=(16,))
  layers = dict.fromkeys(("encoder", "decoder"), last)
  check_program(loss, params, (X,), layers, output=["decoder"])


# --- classifiers --------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_cosine_classifier_with_margin(axis):
  def loss(params, x, labels):
    z = jnp.tanh(x @ params["encoder"])
    unit = lambda x, a: x / jnp.linalg.norm(x, axis=a, keepdims=True)  # noqa: E731
    w = unit(params["classes"], axis)
    cosines = unit(z, -1) @ (w if axis == 0 else w.T)
    hot = jax.nn.one_hot(labels, 5, dtype=F32)
    angles = jnp.arccos(jnp.clip(cosines, -0.999, 0.999))
    return cross_entropy(30.0 * jnp.cos(angles + 0.5 * hot), labels)

  params = arrays(encoder=(8, 4), classes=(4, 5) if axis == 0 else (5, 4))
  layers = {"encoder": last, "classes": last if axis == 0 else first}
  check_program(loss, params, (X, jnp.array([0, 4])), layers, output=["classes"])


def test_actor_and_critic():
  def forward(params, x):
    h = jnp.tanh(x @ params["trunk"])
    return h @ params["actor"] + params["bias"], (h @ params["critic"])[:, 0]

  params = arrays(trunk=(8, 6), actor=(6, 4), bias=(4,), critic=(6, 1))
  layers = dict.fromkeys(("trunk", "actor"), last)
  check_program(forward, params, (X,), layers, output=["actor"])

  def loss(params, x, actions, advantages, returns, old):
    logits, values = forward(params, x)
    logs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logs, actions[:, None], axis=1)[:, 0]
    ratio = jnp.exp(chosen - old)
    clipped = jnp.clip(ratio, 0.8, 1.2)
    policy = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
    entropy = -(jnp.exp(logs) * logs).sum(-1).mean()
    return policy + 0.5 * ((values - returns) ** 2).mean() - 0.01 * entropy

  inputs = X, jnp.array([0, 3]), *[jnp.ones((2,), F32)] * 3
  check_program(loss, params, inputs, layers, output=["actor"])


def test_deep_q_learning_with_a_target_network():
  """The target is constant for the derivative: read all the same, but no output."""

  def q(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["head"]

  def loss(params, x, actions, rewards, following):
    best = lax.stop_gradient(q(params["target"], following)).max(-1)
    chosen = jnp.take_along_axis(q(params["online"], x), actions[:, None], 1)[:, 0]
    return ((rewards + 0.9 * best - chosen) ** 2).mean()

  net = arrays(w=(8, 6), head=(6, 4))
  params = {"online": net, "target": net}
  layers = {f"{n}/{k}": last for n in params for k in net}
  inputs = X, jnp.array([0, 3]), jnp.ones((2,), F32), X
  check_program(loss, params, inputs, layers, output=["online/head"])


def test_teacher_and_student():
  def loss(params, x):
    s = jax.nn.relu(x @ params["student"]["w"]) @ params["student"]["head"]
    t = lax.stop_gradient(x @ params["teacher"]["w"])
    return -(jax.nn.softmax(t) * jax.nn.log_softmax(s)).sum(-1).mean()

  params = {"student": arrays(w=(8, 6), head=(6, 4)), "teacher": arrays(w=(8, 4))}
  layers = dict.fromkeys(("student/w", "student/head", "teacher/w"), last)
  check_program(loss, params, (X,), layers, output=["student/head"])


def test_several_heads():
  def forward(params, x):
    h = jax.nn.relu(x @ params["trunk"])
    return {k: h @ w for k, w in params["heads"].items()}

  params = {"trunk": normal32(8, 6), "heads": arrays(a=(6, 3), b=(6, 4))}
  layers = dict.fromkeys(("trunk", "heads/a", "heads/b"), last)
  check_program(forward, params, (X,), layers, output=["heads/a", "heads/b"])


def test_a_residual_stream_without_a_head():
  def forward(params, x):
    for w in params["blocks"]:
      x = x + jax.nn.relu(x @ w[0]) @ w[1]
    return x

  params = {"blocks": [[normal32(8, 6), normal32(6, 8)] for _ in range(2)]}
  layers = {f"blocks/{i}/{k}": last for i in (0, 1) for k in (0, 1)}
  check_program(forward, params, (X,), layers)


def test_mixture_density():
  def loss(params, x, y):
    h = jnp.tanh(x @ params["w"])
    mixture, means, scales = jnp.split(h @ params["head"], 3, axis=-1)
    logs = -((y[:, None] - means) ** 2) * jnp.exp(scales) + 0.5 * scales
    return -jax.nn.logsumexp(jax.nn.log_softmax(mixture) + logs, axis=-1).mean()

  params = arrays(w=(8, 6), head=(6, 12))
  layers = {"w": last, "head": in_groups(3)}
  inputs = X, np.ones((2,), np.float32)
  check_program(loss, params, inputs, layers, output=["head"])
