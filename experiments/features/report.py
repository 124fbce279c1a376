"""Tables of docs/features.md, from the JSON of what was computed."""

from collections.abc import Sequence
from typing import Any

from experiments.features.forms import FORMS
from experiments.report.answers import probability
from experiments.report.cells import difference, mean_and_spread
from experiments.report.markdown import markdown
from experiments.report.pages import wrapped
from experiments.report.statistics import holm, paired_difference

TITLES = {
  "none": "nothing",
  "decorrelation": "decorrelation (Barlow Twins)",
  "uniformity": "uniformity, `LogMean(Gaussian(2.0))`",
  "energy": "energy, `RECOMMENDED`",
  "orthonormality": "`Orthonormality()`",
  "KoLeo": "`KoLeo()`",
}
_SPACED = ("uniformity", "energy")


def blocks(results: Sequence[dict[str, Any]]) -> dict[str, str]:
  """What is generated, by name, of the results of each dimension."""
  return {
    "accuracy": _accuracy(results),
    "against": _against(results),
    "tuning": _tuning(results),
    "settings": _settings(results[0]["settings"]),
  }


def _titled(results):
  return [f"d = {result['settings']['d']}" for result in results]


def _accuracy(results):
  rows = [
    [
      TITLES.get(form, form),
      *(mean_and_spread(r["forms"][form]["accuracy"], 1) for r in results),
    ]
    for form in FORMS
  ]
  return markdown(["kept apart by", *_titled(results)], *rows)


def _against(results):
  """The energy, and uniformity, minus each other form: paired by seed."""
  parts = []
  for own in reversed(_SPACED):
    rivals = [form for form in FORMS if form != own]
    pairs = {
      (form, i): (result["forms"][form]["accuracy"], result["forms"][own]["accuracy"])
      for form in rivals
      for i, result in enumerate(results)
    }
    p_values = holm([paired_difference(*pair).p_value for pair in pairs.values()])
    p_of = dict(zip(pairs, p_values))
    rows = [
      [
        TITLES.get(form, form),
        *(
          f"{difference(*pairs[form, i], 1)}; {probability(p_of[form, i])}"
          for i in range(len(results))
        ),
      ]
      for form in rivals
    ]
    parts.append(markdown([f"{own} minus", *_titled(results)], *rows))
  return "\n\n".join(parts)


def _tuning(results):
  """What was tried, what was chosen, and whether that lies at an edge."""
  settings = [result["settings"] for result in results]
  told, edges = [], []
  for form in FORMS[1:]:
    tried = settings[0]["weights"][form]
    chosen = [result["forms"][form]["weight"] for result in results]
    listed, of = (", ".join(f"{x:g}" for x in xs) for xs in (chosen, tried))
    told.append(f"{form} {listed} (of {of})")
    edges += [
      f"{form} at d = {of_d['d']}"
      for of_d, x in zip(settings, chosen)
      if x in (min(tried), max(tried))
    ]
  dimensions = ", ".join(str(of_d["d"]) for of_d in settings)
  return wrapped(
    f"Chosen at d = {dimensions}: {'; '.join(told)}. At an edge of what was tried: "
    f"{', '.join(edges) or 'none'}."
  )


def _settings(settings):
  train, test = settings["images"]
  return wrapped(
    f"{train:,} digits to learn from and {test:,} others, 14 x 14 pixels, "
    f"{settings['num_views']} views of each; two hidden layers of {settings['width']}; "
    f"{settings['steps']} steps of Adam with {settings['batch_size']} pairs of views; "
    f"{settings['neighbors']} neighbors vote; {len(settings['tuning_seeds'])} seeds to "
    f"tune, {len(settings['seeds'])} new ones to report."
  )
