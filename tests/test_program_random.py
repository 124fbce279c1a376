"""Random programs of known pieces: the energy of what is read, against NumPy.

Each piece adds parameters, what a program does with them, and the sets of neurons that
they are, by its own indexing. No code is shared with the reading.
"""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from programs import outputs

from mhe_jax import Riesz, layer_rules, network_energy, neuron_matrices

BATCH, TIME = 2, 5


class Program:
  """A program of activations ``[batch, time, width]``.

  Attributes:
    width: of the last activations.
    params: ``{name: array}``, in float64.
    sets: ``{name: [matrix]}``, sets of neurons that each parameter is.
    steps: functions of the parameters and of activations.
  """

  def __init__(self, seed, width):
    self.rng = np.random.default_rng(seed)
    self.width = width
    self.params, self.sets, self.steps = {}, {}, []

  def parameter(self, shape, sets=None):
    """A name; ``sets`` gives the matrices of an array, None: it has no neurons."""
    name = f"p{len(self.params)}"
    self.params[name] = self.rng.normal(size=shape)
    if sets is not None:
      self.sets[name] = sets(self.params[name])
    return name

  def draw(self, n):
    return int(self.rng.integers(n))

  def __call__(self, params, x):
    for step in self.steps:
      x = step(params, x)
    return x

  def energy(self, output):
    """The sum over all sets, with antipodes but for the output layer."""
    return sum(
      energy(rows, half_space=name != output)
      for name, sets in self.sets.items()
      for rows in sets
    )


# --- pieces: each takes a program, and adds to it -----------------------------------


def dense(p):
  n, m, form = p.width, 3 + p.draw(3), p.draw(6)
  if form == 0:
    w = p.parameter((m, n), lambda w: [w])
    p.steps.append(lambda q, x: x @ q[w].T)
  elif form == 1:
    w = p.parameter((n, m), lambda w: [w.T])
    norm = lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True)  # noqa: E731
    p.steps.append(lambda q, x: x @ norm(q[w]))
  elif form == 2:
    w = p.parameter((n, m), lambda w: [w.T])
    p.steps.append(lambda q, x: jnp.einsum("om,bto->btm", q[w], x))
  elif form == 3:
    w = p.parameter((n, m), lambda w: [w.T])
    mask = p.rng.integers(2, size=(n, m)).astype(float)
    p.steps.append(lambda q, x: x @ (q[w] * mask))
  elif form == 4:
    w = p.parameter((m, n), lambda w: [w])
    p.steps.append(lambda q, x: jax.vmap(jax.vmap(lambda x: q[w] @ x))(x))
  else:
    w = p.parameter((n, m), lambda w: [w.T])
    half = lambda w: w.astype(jnp.float32).astype(w.dtype)  # noqa: E731
    p.steps.append(lambda q, x: jax.jit(jnp.matmul)(x, half(q[w])))
  p.width = m


def bias(p):
  b = p.parameter((1, 1, p.width))
  p.steps.append(lambda q, x: jnp.tanh(x + q[b]))


def scale(p):
  g = p.parameter((1, 1, p.width))
  p.steps.append(lambda q, x: q[g] * x / jnp.sqrt(1.0 + (x**2).mean(-1, keepdims=True)))


def gates(p):
  k, m, form = 2 + p.draw(2), 2 + p.draw(3), p.draw(4)
  n, width = p.width, k * m
  if form == 0:  # One after the other.
    w = p.parameter((n, width), lambda w: [w[:, i * m : i * m + m].T for i in range(k)])
    parts = lambda y: jnp.split(y, k, axis=-1)  # noqa: E731
  elif form == 1:  # In turns.
    w = p.parameter((n, width), lambda w: [w[:, i::k].T for i in range(k)])
    parts = lambda y: [y[..., i::k] for i in range(k)]  # noqa: E731
  elif form == 2:  # In rows.
    w = p.parameter((width, n), lambda w: [w[i * m : i * m + m] for i in range(k)])
    parts = lambda y: [y[..., i * m : i * m + m] for i in range(k)]  # noqa: E731
  else:  # Head by head.
    w = p.parameter(
      (n, 2 * width),
      lambda w: list(
        np.moveaxis(w.reshape(n, 2, k, m), (2, 0), (0, 3)).reshape(k, 2 * m, n)
      ),
    )
    parts = lambda y: [  # noqa: E731
      y.reshape(BATCH, TIME, 2, k, m)[..., i, :].reshape(BATCH, TIME, 2 * m)
      for i in range(k)
    ]

  def step(q, x):
    y = jnp.einsum("btn,mn->btm", x, q[w]) if form == 2 else x @ q[w]
    first, *others = parts(y)
    for other in others:
      first = jax.nn.sigmoid(first) * jnp.tanh(other)
    return first

  p.steps.append(step)
  p.width = 2 * m if form == 3 else m


def heads(p):
  n, h, m = p.width, 2, 2 + p.draw(2)
  w = p.parameter((n, h, m), lambda w: [w.reshape(n, h * m).T])
  out = p.parameter((h, m, n), lambda w: [w.reshape(h * m, n).T])

  def step(q, x):
    y = jnp.einsum("btn,nhm->bthm", x, q[w])
    y = jax.nn.softmax(jnp.einsum("bthm,bshm->bhts", y, y)) @ y.swapaxes(1, 2)
    return jnp.einsum("bhtm,hmn->btn", y, q[out])

  p.steps.append(step)


def convolution(p):
  n, form = p.width, p.draw(3)
  groups = 2 if form == 1 and n % 2 == 0 and n > 2 else 1
  m = 2 * (2 + p.draw(2))

  def sets(w):
    rows = w.reshape(-1, m).T
    return np.split(rows, groups)

  w = p.parameter((3, n // groups, m), sets)
  options = {"rhs_dilation": (2,)} if form == 2 else {}
  p.steps.append(
    lambda q, x: lax.conv_general_dilated(
      x,
      q[w],
      (1,),
      "SAME",
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=groups,
      **options,
    )
  )
  p.width = m


def mixing(p):
  w = p.parameter((TIME, TIME), lambda w: [w.T])
  if p.draw(2):
    p.steps.append(lambda q, x: jnp.einsum("btn,ts->bsn", x, q[w]))
  else:
    p.steps.append(lambda q, x: (x.swapaxes(1, 2) @ q[w]).swapaxes(1, 2))


def residual(p):
  n, m = p.width, 3 + p.draw(3)
  up = p.parameter((n, m), lambda w: [w.T])
  down = p.parameter((m, n), lambda w: [w.T])
  p.steps.append(lambda q, x: x + jax.nn.relu(x @ q[up]) @ q[down])


def low_rank(p):
  n = p.width
  w = p.parameter((n, n), lambda w: [w.T])
  a = p.parameter((n, 2), lambda w: [w.T])
  b = p.parameter((2, n), lambda w: [w.T])
  p.steps.append(lambda q, x: x @ (q[w] + 0.5 * q[a] @ q[b]))


def scan(p):
  n, num, axis = p.width, 2 + p.draw(3), p.draw(2)
  shape = (num, n, n) if axis == 0 else (n, num, n)
  w = p.parameter(shape, lambda w: [w.take(i, axis).T for i in range(num)])

  def step(q, x):
    layer = lambda x, w: (jnp.tanh(x @ w), None)  # noqa: E731
    return lax.scan(layer, x, jnp.moveaxis(q[w], axis, 0))[0]

  p.steps.append(step)


def recurrence(p):
  n, m = p.width, 3
  w = p.parameter((n, 2 * m), lambda w: np.split(w.T, 2))
  u = p.parameter((m, 2 * m), lambda w: np.split(w.T, 2))

  def step(q, x):
    def turn(h, x):
      z, g = jnp.split(x @ q[w] + h @ q[u], 2, axis=-1)
      h = jax.nn.sigmoid(z) * jnp.tanh(g) + h
      return h, h

    _, hs = lax.scan(turn, jnp.zeros((BATCH, m), x.dtype), x.swapaxes(0, 1))
    return hs.swapaxes(0, 1)

  p.steps.append(step)
  p.width = m


def ensemble(p):
  n, m, num, axis = p.width, 3, 2 + p.draw(2), p.draw(2)
  put = lambda shape: (num, *shape) if axis == 0 else (shape[0], num, shape[1])  # noqa: E731
  sets = lambda w: [w.take(i, axis).T for i in range(num)]  # noqa: E731
  w1, w2 = (p.parameter(put(shape), sets) for shape in ((n, m), (m, n)))

  def step(q, x):
    member = lambda w1, w2: jax.nn.relu(x @ w1) @ w2  # noqa: E731
    return jax.vmap(member, in_axes=axis)(q[w1], q[w2]).mean(0)

  p.steps.append(step)


def turned(p):
  """No parameters: axes go elsewhere and back, and rows change places."""
  n = p.width
  p.steps.append(lambda q, x: x.transpose(2, 0, 1).reshape(n, -1).T.reshape(x.shape))
  p.steps.append(lambda q, x: jnp.flip(x, 1).at[:, 0].add(1.0))


PIECES = [
  dense, bias, scale, gates, heads, convolution, mixing, residual, low_rank, scan,
  recurrence, ensemble, turned,
]  # fmt: skip


def program(seed, width, pieces):
  """With a table of tokens in front, and a classifier at the end."""
  p = Program(seed, width)
  table = p.parameter((7, width), lambda w: [w])
  positions = p.parameter((1, TIME, width))
  p.steps.append(lambda q, tokens: q[table][tokens] + q[positions])
  for piece in pieces:
    piece(p)
  head = p.parameter((p.width, 4), lambda w: [w.T])
  p.steps.append(lambda q, x: jax.nn.log_softmax(x.mean(1) @ q[head]))
  return p, head


# --- the energy, in float64 ---------------------------------------------------------


def energy(rows, half_space):
  """Mean inverse distance of all pairs of directions, with antipodes or without."""
  units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  if half_space:
    units = np.concatenate([units, -units])
  pairs = itertools.combinations(units, 2)
  return float(np.mean([1.0 / np.linalg.norm(u - v) for u, v in pairs]))


@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(
  seed=st.integers(0, 2**16),
  width=st.sampled_from([3, 4, 6]),
  pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=6),
)
def test_energy_of_random_programs(seed, width, pieces):
  p, head = program(seed, width, pieces)
  tokens = jnp.asarray(p.rng.integers(7, size=(BATCH, TIME)))
  params = {name: jnp.asarray(x) for name, x in p.params.items()}
  rules = layer_rules(p, params, tokens)
  expected = p.energy(head)
  hypothesis.note("\n".join(map(repr, rules)))
  # The energy of the library itself would be compiled anew for every program.
  heads_read = outputs(params, rules)
  read = sum(
    energy(rows, half_space=name not in heads_read)
    for name, sets in neuron_matrices(params, rules).items()
    for rows in np.asarray(sets).reshape(-1, *sets.shape[-2:])
  )
  np.testing.assert_allclose(read, expected, rtol=1e-12)


def test_energy_of_one_of_each_piece():
  """By the library's own energy."""
  p, head = program(0, 4, PIECES)
  params = {name: jnp.asarray(x) for name, x in p.params.items()}
  rules = layer_rules(p, params, jnp.zeros((BATCH, TIME), int))
  expected = p.energy(head)
  actual = network_energy(params, Riesz(1.0), rules=rules)
  np.testing.assert_allclose(actual, expected, rtol=1e-9)
