r"""Tables of the language model, of the results alone.

python -m experiments.language.report --results experiments/results/language \
  --page docs/spread.md
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from experiments.errors import InputError, told_in_a_line
from experiments.report.cells import difference, mean_and_spread
from experiments.report.markdown import markdown
from experiments.report.pages import filled, wrapped, write

TITLES = {
  "without": "without",
  "today": "energy in the loss, weight 0.1",
  "spread": "`spread`, share 0.5",
  "spread 1": "`spread`, share 1",
  "orthonormal": "`spread` of `Orthonormality`, share 0.5",
  "orthonormal 1": "`spread` of `Orthonormality`, share 1",
  "held": "norms held",
  "spread held": "norms held, `spread`, share 0.5",
  "spread 1 held": "norms held, `spread`, share 1",
  "random": "share 1, in any direction",
  "hidden": "share 1, hidden layers only",
  "ends": "share 1, embedding and head only",
}
_NAMES = {"adamw": "AdamW", "muon": "Muon"}


def texts(results: Sequence[dict[str, Any]]) -> dict[str, str]:
  """All that is generated of a page, by name."""
  short, confirmed, long = (
    [r for r in results if _kind(r["config"]) == kind]
    for kind in ("tuning", "confirmed", "longer")
  )
  return {
    "language, rates": "\n\n".join([*_by_rate(short), _made(results)]),
    "language, confirmed": _confirmed(confirmed),
    "language, longer": _longer(long),
  }


def _kind(config):
  if config["half"]:
    return "confirmed"
  return "longer" if config["steps"] > 300 else "tuning"


def last(result: dict[str, Any]) -> float:
  """Validation loss at the end, in nats a byte."""
  return result["history"][-1]["validation"]


def _forms(results):
  found = {result["config"]["form"] for result in results}
  return [form for form in TITLES if form in found]


def _by_rate(results):
  """A table for each optimizer: a row for each form, a column for each rate."""
  for optimizer, name in _NAMES.items():
    own = [r for r in results if r["config"]["optimizer"] == optimizer]
    rates = sorted({r["config"]["rate"] for r in own})
    rows = []
    for form in _forms(own):
      means = {}
      for rate in rates:
        losses = [last(r) for r in own if _arm(r) == (optimizer, form, rate)]
        if losses:
          means[rate] = np.mean(losses)
      best = min(means, key=lambda rate: means[rate])
      cells = [f"{means[rate]:.3f}" if rate in means else "" for rate in rates]
      cells[rates.index(best)] = f"**{cells[rates.index(best)]}**"
      rows.append([TITLES[form], *cells])
    if rows:
      yield markdown([f"{name}, rate", *(f"{rate:g}" for rate in rates)], *rows)


def _arm(result):
  config = result["config"]
  return config["optimizer"], config["form"], config["rate"]


def _confirmed(results):
  """A row for each setting, and its difference to the one without, seed by seed."""
  losses = {}
  for result in results:
    losses.setdefault(_arm(result), {})[result["config"]["seed"]] = last(result)
  rows = []
  for arm in sorted(losses, key=_order):
    optimizer, form, rate = arm
    own, against = losses[arm], ""
    for rival, others in losses.items():
      if rival[:2] == (optimizer, "without") and form != "without":
        seeds = sorted(own.keys() & others.keys())
        pairs = ([of[seed] for seed in seeds] for of in (others, own))
        against = difference(*pairs, digits=3)
    rows.append(
      [
        f"{_NAMES[optimizer]} {rate:g}",
        TITLES[form],
        f"{len(own)}",
        mean_and_spread(own.values(), 3),
        against,
      ]
    )
  return markdown(
    ["optimizer, rate", "form", "seeds", "loss", "against without"], *rows
  )


def _order(arm):
  optimizer, form, rate = arm
  return optimizer, list(TITLES).index(form), rate


def _longer(results):
  """A row for each run: losses on the way."""
  if not results:
    return "No run is there yet."
  results = sorted(results, key=lambda result: _order(_arm(result)))
  steps = [point["step"] for point in results[0]["history"]]
  shown = [step for i, step in enumerate(steps) if i in (0, 2, 4, 7, len(steps) - 1)]
  rows = []
  for result in results:
    optimizer, form, rate = _arm(result)
    losses = {point["step"]: point["validation"] for point in result["history"]}
    rows.append(
      [
        f"{_NAMES[optimizer]} {rate:g}, {TITLES[form]}",
        *(f"{losses[step]:.3f}" for step in shown),
        f"{result['history'][-1]['seconds']:.0f} s",
      ]
    )
  return markdown(["after so many steps", *map(str, shown), "processor time"], *rows)


def _made(results):
  """With what, in a sentence."""
  first = results[0]
  config = first["config"]
  processors = dict.fromkeys(
    result["processor"].split(",")[0].removeprefix("model name ") for result in results
  )
  return wrapped(
    f"Validation loss in nats a byte, bold: best rate of a form. {config['blocks']} "
    f"blocks of width {config['width']}, {config['batch_size']} windows of "
    f"{config['length']} bytes a step, warm-up of a tenth, cosine; "
    f"{first['text']['from'].split(',')[0]}; jax {first['versions']['jax']}, "
    f"{', '.join(processors)}."
  )


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """All runs of a folder.

  Raises:
    InputError: there is none.
  """
  results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
  if not results:
    raise InputError(f"results must be a folder of runs, found none in {folder}.")
  return results


def main(
  results: pathlib.Path = pathlib.Path("runs/language"),
  page: pathlib.Path = pathlib.Path("runs/language/language.md"),
) -> None:
  """Writes the tables into a page.

  Args:
    results: folder of the runs.
    page: Markdown whose tables are replaced, or which is made.
  """
  with told_in_a_line(Console()):
    made = texts(read_results(results))
    write(page, filled(page, "A language model of bytes", made))


if __name__ == "__main__":
  tyro.cli(main)
