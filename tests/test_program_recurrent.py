"""Loops over time and depth, written by hand, against matrices made by hand."""

import jax
import jax.numpy as jnp
import pytest
from by_hand import first, in_groups, last, stacked
from programs import arrays, check_program, cross_entropy, norm
from sets import normal32
from trees import F32

SEQUENCE = normal32(2, 5, 8, seed=9)
STATE = jnp.zeros((2, 4), F32)


def over_time(step, carry, x):
  carry, ys = jax.lax.scan(step, carry, x.swapaxes(0, 1))
  return carry, ys.swapaxes(0, 1)


# --- cells --------------------------------------------------------------------------


def split_gates(z):
  return jnp.split(z, 4, axis=-1)


def sliced_gates(z):
  return [z[:, 4 * i : 4 * i + 4] for i in range(4)]


def reshaped_gates(z):
  return jnp.moveaxis(z.reshape(-1, 4, 4), 1, 0)


@pytest.mark.parametrize("gates", [split_gates, sliced_gates, reshaped_gates])
@pytest.mark.parametrize("fused", [False, True])
def test_lstm(gates, fused):
  def forward(params, x):
    def step(carry, x):
      c, h = carry
      if fused:
        z = jnp.concatenate([x, h], axis=-1) @ params["w"] + params["b"]
      else:
        z = x @ params["w"] + h @ params["u"] + params["b"]
      i, f, g, o = gates(z)
      c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(c)
      return (c, h), h

    _, ys = over_time(step, (STATE, STATE), x)
    return ys @ params["head"]

  shapes = {"w": (12, 16)} if fused else {"w": (8, 16), "u": (4, 16)}
  params = arrays(**shapes, b=(16,), head=(4, 3))
  layers = {k: in_groups(4) for k in shapes} | {"head": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def gru_of_three(p, x, h):
  """All gates of the input, and of the state, in one product each."""
  xs, hs = jnp.split(x @ p["w"], 3, axis=-1), jnp.split(h @ p["u"], 3, axis=-1)
  z, r = (jax.nn.sigmoid(a + b) for a, b in zip(xs[:2], hs[:2]))
  return (1.0 - z) * jnp.tanh(xs[2] + r * hs[2]) + z * h


def gru_of_two_and_one(p, x, h):
  """Gates first, the candidate after them."""
  gates = jax.nn.sigmoid(x @ p["w"][:, :8] + h @ p["u"][:, :8])
  z, r = jnp.split(gates, 2, axis=-1)
  candidate = jnp.tanh(x @ p["w"][:, 8:] + (r * h) @ p["u"][:, 8:])
  return (1.0 - z) * candidate + z * h


def gru_with_a_candidate_of_its_own(p, x, h):
  z, r = jnp.split(jax.nn.sigmoid(x @ p["w"] + h @ p["u"]), 2, axis=-1)
  return (1.0 - z) * jnp.tanh(x @ p["a"] + (r * h) @ p["b"]) + z * h


@pytest.mark.parametrize(
  ("cell", "gates"),
  [(gru_of_three, 3), (gru_of_two_and_one, 3), (gru_with_a_candidate_of_its_own, 2)],
)
def test_gru(cell, gates):
  def forward(params, x):
    def step(h, x):
      h = cell(params, x, h)
      return h, h

    h, _ = over_time(step, STATE, x)
    return h @ params["head"]

  shapes = {"w": (8, 4 * gates), "u": (4, 4 * gates)}
  alone = {"a": (8, 4), "b": (4, 4)} if gates == 2 else {}
  params = arrays(**shapes, **alone, head=(4, 3))
  layers = {k: in_groups(gates) for k in shapes}
  layers |= dict.fromkeys([*alone, "head"], last)
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def test_recurrent_language_model_and_its_loss():
  def loss(params, tokens):
    def step(h, x):
      h = jnp.tanh(x @ params["w"] + h @ params["u"])
      return h, h

    _, hs = over_time(step, STATE, params["table"][tokens])
    return cross_entropy(hs @ params["head"], tokens)

  params = arrays(table=(7, 8), w=(8, 4), u=(4, 4), head=(4, 7))
  layers = {**dict.fromkeys(("w", "u", "head"), last), "table": first}
  tokens = jnp.arange(10).reshape(2, 5) % 7
  check_program(loss, params, (tokens,), layers, output=["head"])


def test_decoding_token_by_token():
  """What is drawn comes round: the table is read in the second turn of the loop."""

  def sample(params, token, key):
    def step(carry, key):
      h, token = carry
      h = jnp.tanh(params["table"][token] @ params["w"] + h @ params["u"])
      logits = h @ params["head"]
      token = jax.random.categorical(key, logits).astype(token.dtype)
      return (h, token), logits

    keys = jax.random.split(key, 6)
    return jax.lax.scan(step, (STATE, token), keys)[1]

  params = arrays(table=(7, 8), w=(8, 4), u=(4, 4), head=(4, 7))
  layers = {**dict.fromkeys(("w", "u", "head"), last), "table": first}
  token = jnp.zeros((2,), jnp.int32)
  for key in (jax.random.key(0), jax.random.PRNGKey(0)):
    check_program(sample, params, (token, key), layers, output=["head"])


# --- fixed points, and depth --------------------------------------------------------


@pytest.mark.parametrize("form", ["while_loop", "fori_loop", "cond"])
def test_fixed_points(form):
  def forward(params, x):
    inject = x @ params["inject"]
    layer = lambda z: jnp.tanh(norm(z, params["scale"]) @ params["w"] + inject)  # noqa: E731
    start = jnp.zeros_like(inject)
    if form == "while_loop":
      unsettled = lambda c: (c[0] < 9) & (jnp.linalg.norm(c[2] - c[1]) > 1e-3)  # noqa: E731
      turn = lambda c: (c[0] + 1, c[2], layer(c[2]))  # noqa: E731
      _, _, z = jax.lax.while_loop(unsettled, turn, (0, start, layer(start)))
    elif form == "fori_loop":
      z = jax.lax.fori_loop(0, 9, lambda _, z: layer(z), start)
    else:
      z = jax.lax.cond(x.sum() > 0, layer, lambda z: layer(layer(z)), start)
    return z @ params["head"]

  params = arrays(inject=(8, 6), w=(6, 6), scale=(6,), head=(6, 3))
  layers = dict.fromkeys(("inject", "w", "head"), last)
  check_program(forward, params, (normal32(2, 8),), layers, output=["head"])


def test_differentiable_solver():
  """A linear system whose operator is a layer."""

  def forward(params, x):
    operator = lambda z: z + 0.1 * (z @ params["w"]) @ params["w"].T  # noqa: E731
    z, _ = jax.scipy.sparse.linalg.cg(operator, x @ params["inject"], maxiter=5)
    return z @ params["head"]

  params = arrays(inject=(8, 6), w=(6, 5), head=(6, 3))
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (normal32(2, 8),), layers, output=["head"])


def test_branches_with_weights_of_their_own():
  def forward(params, x, kind):
    branches = [lambda x, w=params[k]: jax.nn.relu(x @ w) for k in "abc"]
    return jax.lax.switch(kind, branches, x) @ params["head"]

  params = arrays(a=(8, 6), b=(8, 6), c=(8, 6), head=(6, 3))
  layers = dict.fromkeys(params, last)
  check_program(
    forward, params, (normal32(2, 8), jnp.array(1)), layers, output=["head"]
  )


# --- state spaces -------------------------------------------------------------------


def by_scan(decay, x, c):
  def step(h, inputs):
    decay, x, c = inputs
    h = decay * h + x
    return h, (h * c[:, None, :]).sum(-1)

  start = jnp.zeros_like(decay[:, 0])
  swapped = (y.swapaxes(0, 1) for y in (decay, x, c))
  return jax.lax.scan(step, start, tuple(swapped))[1].swapaxes(0, 1)


def by_associative_scan(decay, x, c):
  combine = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])  # noqa: E731
  _, h = jax.lax.associative_scan(combine, (decay, x), axis=1)
  return jnp.einsum("btdn,btn->btd", h, c)


@pytest.mark.parametrize("recurrence", [by_scan, by_associative_scan])
def test_selective_state_space(recurrence):
  def forward(params, x):
    p = params
    u, gate = jnp.split(norm(x, p["norm"]) @ p["in"], 2, axis=-1)
    u = jax.lax.conv_general_dilated(
      u, p["conv"], (1,), [(3, 0)], dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=12,
    )  # fmt: skip
    u = jax.nn.silu(u)
    step, b, c = jnp.split(u @ p["x"], [2, 5], axis=-1)
    step = jax.nn.softplus(step @ p["step"] + p["bias"])[..., None]
    decay = jnp.exp(-step * jnp.exp(p["A_log"]))
    y = recurrence(decay, step * b[:, :, None, :] * u[..., None], c)
    y = (y + u * p["D"]) * jax.nn.silu(gate)
    return (x + y @ p["out"]) @ p["head"]

  params = arrays(
    norm=(8,), conv=(4, 1, 12), x=(12, 8), step=(2, 12), bias=(12,), A_log=(12, 3),
    D=(12,), out=(12, 8), head=(8, 5), **{"in": (8, 24)},
  )  # fmt: skip
  layers = dict.fromkeys(("x", "step", "out", "head"), last)
  layers["in"] = in_groups(2)
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def test_linear_recurrence_with_matrices_for_states():
  """x B and h C are products; the decay of the state is a table."""

  def forward(params, x):
    def step(h, x):
      h = params["decay"] * h + x @ params["B"]
      return h, h @ params["C"]

    return over_time(step, STATE, x)[1]

  params = arrays(decay=(1, 4), B=(8, 4), C=(4, 8))
  layers = dict.fromkeys("BC", last)
  check_program(forward, params, (SEQUENCE,), layers, output=["C"])


def test_a_stack_of_recurrent_layers():
  """A scan over time in a scan over layers."""

  def forward(params, x):
    def layer(x, p):
      def step(h, x):
        z, g = jnp.split(x @ p["w"] + h @ p["u"], 2, axis=-1)
        h = jax.nn.sigmoid(z) * jnp.tanh(g)
        return h, h

      _, ys = over_time(step, STATE, x)
      return x + ys @ p["out"], None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return x.mean(1) @ params["head"]

  stack = arrays(w=(3, 8, 8), u=(3, 4, 8), out=(3, 4, 8))
  params = {"layers": stack, **arrays(head=(8, 5))}
  layers = {f"layers/{k}": stacked(in_groups(2)) for k in "wu"}
  layers |= {"layers/out": stacked(last), "head": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])
