"""A small transformer under Muon, or AdamW: the rules serve Muon, too.

python language_model.py          # Muon
python language_model.py adamw    # AdamW with spread, at four times its rate
"""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhe_jax import describe, layer_rules, muon_dimension_numbers, spread

WIDTH, LENGTH, BATCH, STEPS = 64, 64, 16, 60
text = np.frombuffer(pathlib.Path(optax.__file__).read_bytes(), np.uint8).astype(int)


class Model(nn.Module):
  """Bytes to logits of the next ones."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(256, WIDTH, name="embed")(tokens)
    x = x + self.param("positions", nn.initializers.normal(0.02), (LENGTH, WIDTH))
    mask = nn.make_causal_mask(tokens)
    for i in range(2):
      y = nn.LayerNorm()(x)
      attention = nn.MultiHeadDotProductAttention(4, use_bias=False, name=f"mix{i}")
      x = x + attention(y, mask=mask)
      y = nn.gelu(nn.Dense(4 * WIDTH, name=f"up{i}")(nn.LayerNorm()(x)))
      x = x + nn.Dense(WIDTH, name=f"down{i}")(y)
    return nn.Dense(256, use_bias=False, name="head")(nn.LayerNorm()(x))


model, rng = Model(), np.random.default_rng(0)


def loss(params, windows):
  logits = model.apply({"params": params}, windows[:, :-1])
  return optax.softmax_cross_entropy_with_integer_labels(
    jnp.asarray(logits), windows[:, 1:]
  ).mean()


def draw():
  starts = rng.integers(0, len(text) - LENGTH, BATCH)
  return text[starts[:, None] + np.arange(LENGTH + 1)]


windows = draw()
params = model.init(jax.random.key(0), windows[:, :-1])["params"]
rules = layer_rules(loss, params, windows)
if sys.argv[1:] == ["adamw"]:
  tx = spread(optax.adamw(8e-3, b2=0.99), 1.0, rules=rules)
else:
  hidden = muon_dimension_numbers(rules, exclude=".*(embed|positions).*")
  tx = optax.contrib.muon(0.02, muon_weight_dimension_numbers=hidden)
state = tx.init(params)


@jax.jit
def step(params, state, windows):
  value, gradient = jax.value_and_grad(loss)(params, windows)
  updates, state = tx.update(gradient, state, params)
  return optax.apply_updates(params, updates), state, value


for count in range(STEPS):
  params, state, value = step(params, state, draw())
  if count % 20 == 19:
    print(count + 1, f"loss {value:.3f} nats a byte")
print(describe(params, rules=rules))
