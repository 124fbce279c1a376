"""Modules of Flax, Equinox and Haiku as functions of their parameters."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from mhe_jax.layers.program.trace import Path, Reading, read_program
from mhe_jax.layers.trees import is_array


class Program(NamedTuple):
  """A function of parameters, and what it is called with.

  Attributes:
    function: ``function(params, constants, *inputs, **options)``.
    params: a tree of arrays.
    constants: arrays that are neither parameters nor data: batch statistics, keys.
    inputs: positional arguments.
    options: keyword arguments.
    prefix: key that some trees of these parameters have before their paths.
    suffix: key that some have behind.
  """

  function: Callable[..., Any]
  params: Any
  constants: Any
  inputs: tuple[Any, ...]
  options: dict[str, Any]
  prefix: str = "params/"
  suffix: str = ""

  def read(self) -> dict[Path, Reading]:
    return read_program(*self[:5])


def has_class(tree: Any, cls: type) -> bool:
  """Whether a tree is, or holds, a module of a class."""
  is_module = lambda x: isinstance(x, cls)  # noqa: E731
  return any(map(is_module, jax.tree.leaves(tree, is_leaf=is_module)))


def is_nnx(tree: Any) -> bool:
  """Whether a tree is, or holds, an nnx module."""
  nnx = sys.modules.get("flax.nnx")
  return nnx is not None and has_class(tree, nnx.Module)


def is_equinox(tree: Any) -> bool:
  """Whether a tree is, or holds, an Equinox module."""
  eqx = sys.modules.get("equinox")
  return eqx is not None and has_class(tree, eqx.Module)


def program_of(model: Any, inputs: Sequence[Any], options: dict[str, Any]) -> Program:
  """What is to be traced: of a module, or of a function whose first input is a tree.

  Raises:
    TypeError: it is neither; or a function without a tree.
  """
  inputs = tuple(inputs)
  linen, hk = sys.modules.get("flax.linen"), sys.modules.get("haiku")
  if linen is not None and isinstance(model, linen.Module):
    return _linen_program(model, inputs, options)
  if hk is not None and isinstance(model, hk.Transformed | hk.TransformedWithState):
    return _haiku_program(model, inputs, options)
  is_module = (is_nnx(model) or is_equinox(model)) and not hasattr(model, "__wrapped__")
  if is_module and callable(model):
    return _function_program(
      lambda m, *args, **kw: m(*args, **kw), model, inputs, options
    )
  if not callable(model) or isinstance(model, type) or is_module:
    raise TypeError(
      "model must be a function of parameters, a linen, nnx or Equinox module, or the "
      f"result of hk.transform, got {_named(model)}; for a tree of parameters write "
      "LayerRules."
    )
  if not inputs:
    raise TypeError(
      "params must be the second argument: layer_rules(function, params, *inputs), got "
      "the function "
      f"{getattr(model, '__name__', model)!r} alone."
    )
  if is_array(inputs[0]):
    raise TypeError(
      "params must be a tree of parameters, such as a dict, got an array of shape "
      f"{tuple(inputs[0].shape)}: layer_rules(function, params, *inputs), or "
      "layer_rules(module, *inputs)."
    )
  if inputs[0] is None:
    raise TypeError("params must be a tree of parameters, such as a dict, got None.")
  _check_call(model, inputs, options)
  return _function_program(model, inputs[0], inputs[1:], options)


def _named(model):
  is_class = isinstance(model, type)
  return f"the class {model.__name__}: call it" if is_class else type(model).__name__


def _check_call(function, arguments, options):
  """Raises where a function cannot be called so."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # Of what is not written in Python.
    return
  try:
    signature.bind(*arguments, **options)
  except TypeError as error:
    name = getattr(function, "__name__", function)
    raise TypeError(
      f"inputs must be all that {name!r} takes after its parameters, in "
      f"layer_rules(function, params, *inputs): got {len(arguments) - 1}, {error}."
    ) from None


def _function_program(function, params, inputs, options) -> Program:
  if isinstance(params, Mapping) and {"params"} < {*params}:
    # The variables of linen: other collections are states.
    states = {key: x for key, x in params.items() if key != "params"}
    call = lambda params, states, *args, **kwargs: function(  # noqa: E731
      {**params, **states}, *args, **kwargs
    )
    return Program(call, {"params": params["params"]}, states, inputs, options)
  if not is_nnx((params, inputs, options)):
    call = lambda params, _, *args, **kwargs: function(params, *args, **kwargs)  # noqa: E731
    return Program(call, params, (), inputs, options)
  # Modules that are changed by a call, as batch normalization is, must be made inside
  # the trace.
  graphs, params, states = _opened(params)
  others, *rest = _opened((inputs, options))

  def call_with_modules(params, constants, *rest):
    inputs, options = _closed(others, *rest)
    return function(_closed(graphs, params, constants), *inputs, **options)

  return Program(call_with_modules, params, states, tuple(rest), {}, "", "/value")


def _opened(tree: Any) -> tuple[Any, Any, Any]:
  """A tree with nnx modules as three: of their graphs, parameters, and other states."""
  from flax import nnx  # noqa: PLC0415

  leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, nnx.Module))
  parts = [
    nnx.split(x, nnx.Param, ...) if isinstance(x, nnx.Module) else (None, x, None)
    for x in leaves
  ]
  graphs, params, states = zip(*parts) if parts else ((), (), ())
  return (treedef, graphs), treedef.unflatten(params), list(states)


def _closed(graphs, params, states) -> Any:
  from flax import nnx  # noqa: PLC0415

  treedef, graphs = graphs
  leaves = [
    x if graph is None else nnx.merge(graph, x, state)
    for graph, x, state in zip(graphs, treedef.flatten_up_to(params), states)
  ]
  return treedef.unflatten(leaves)


def _linen_program(module, inputs, options) -> Program:
  options = dict(options)
  rngs = options.pop("rngs", None)
  options.pop("mutable", None)  # All states: only the output counts.
  key = jax.random.key(0)
  rngs = {"params": key, **rngs} if isinstance(rngs, Mapping) else {"params": key}
  variables = dict(abstract(module.init, rngs, *inputs, **options))
  params = variables.pop("params", {})

  def apply(params, constants, *inputs, **options):
    states, rngs = constants
    variables = {**states, "params": params}
    # Not the parameters: nn.map_variables would take them for new ones.
    out, _ = module.apply(variables, *inputs, rngs=rngs, mutable=[*states], **options)
    return out

  return Program(apply, params, (variables, rngs), inputs, options)


def _haiku_program(model, inputs, options) -> Program:
  key = jax.random.key(0)
  out = abstract(model.init, key, *inputs, **options)
  hk = sys.modules["haiku"]
  has_state = isinstance(model, hk.TransformedWithState)
  params, state = out if has_state else (out, None)
  # Not after hk.without_apply_rng.
  takes_key = "rng" in inspect.signature(model.apply).parameters

  def apply(params, constants, *inputs, **options):
    state, key = constants
    leading = ([state] if has_state else []) + ([key] if takes_key else [])
    out = model.apply(params, *leading, *inputs, **options)
    return out[0] if has_state else out

  return Program(apply, params, (state, key), inputs, options)


def abstract(init: Callable[..., Any], *args: Any, **options: Any) -> Any:
  """The tree of shapes of ``init(*args, **options)``, for nothing.

  Arrays among the inputs may be abstract; the rest (``train=True``) stays what it is.
  """
  leaves, treedef = jax.tree.flatten((args, options), is_leaf=lambda x: x is None)
  arrays = {i: x for i, x in enumerate(leaves) if is_array(x)}

  def call(arrays):
    whole = [arrays.get(i, x) for i, x in enumerate(leaves)]
    args, options = treedef.unflatten(whole)
    return init(*args, **options)

  return jax.eval_shape(call, arrays)
