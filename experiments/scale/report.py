"""Tables and figures of very many neurons, from the JSON of the runs alone.

  python -m experiments.scale.report --output docs
  python -m experiments.scale.report --preset smoke --results FOLDER

Writes OUTPUT/scale.md and OUTPUT/images/scale_*.png. Of a page that is there already,
only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is replaced, NAME
being "classifier" or "embedding".
"""

import json
import pathlib

import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.report.figures import save_all
from experiments.report.markdown import markdown
from experiments.report.pages import filled
from experiments.scale import classifier, embedding
from experiments.scale.commands import Experiment, Preset
from experiments.scale.figures import KINDS, NAMES, draw_nearest, draw_products

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "scale"
_MEBI = 2**20


def results_of(
  experiment: Experiment, preset: Preset, folder: pathlib.Path
) -> dict[str, dict]:
  """``{arm: result}`` of those that are there.

  Raises:
    InputError: a file is no result, or arms differ in more than what they are.
  """
  found = {}
  for arm in NAMES:
    path = experiment.path(folder, preset, arm)
    if not path.exists():
      continue
    try:
      result = json.loads(path.read_text())
      shared = {k: v for k, v in result["config"].items() if k != experiment.arm}
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(f"{path} is not the result of a run: {error!r}.") from error
    for other in found.values():
      if shared != {k: v for k, v in other["config"].items() if k != experiment.arm}:
        raise InputError(f"{path} must have the settings of the results beside it.")
    found[arm] = result
  return found


def of_classifier(results: dict[str, dict]) -> str:
  """What became of the classes, and what a step took."""
  if not results:
    return ""
  header = ["", "excess", "never trained: median angle", "5%", "least"]
  header += ["trained: median angle", "5%", "least", "test error, %", "test loss"]
  header += ["s a step", "MiB a device"]
  lines = []
  for arm, result in results.items():
    last = result["history"][-1]
    line = [NAMES[arm], f"{last['excess']:.2f} ± {last['excess_error']:.2f}"]
    for kind in KINDS:
      quantiles = result["nearest"][kind]["quantiles"]
      line += [f"{quantiles[i]:.1f}" for i in (2, 1, 0)] if quantiles else [""] * 3
    line += [f"{last['test_error']:.1f}", f"{last['test_loss']:.2f}"]
    line += [f"{result['seconds_a_step']:.2f}"]
    line += [f"{result['memory']['device'] / _MEBI:.1f}"]
    lines.append(line)
  first = next(iter(results.values()))
  config, memory = first["config"], first["memory"]
  counts = {kind: first["nearest"][kind]["classes"] for kind in KINDS}
  state = memory["arguments"] / _MEBI
  pairs = memory["all_pairs"] / _MEBI
  looked_at = " and ".join(f"{first['nearest'][k]['looked_at']:,}" for k in KINDS)
  told = (
    f"{config['classes']:,} classes of {config['d']} weights on {config['devices']} "
    f"devices, {config['steps']} steps of {config['batch']} images: "
    f"{counts['trained']:,} classes came at least once, {counts['never']:,} never. "
    f"Each device keeps {state:.1f} MiB of weights and momentum; the matrix of all "
    f"pairs would have {pairs:,.0f} MiB. Angles are those of {looked_at} classes that "
    "never and that did come, drawn at random, to the nearest of all others."
  )
  return f"{told}\n\n{markdown(header, *lines)}\n\n{_made_with(results)}"


def of_embedding(results: dict[str, dict]) -> str:
  """Where both descents got to."""
  if not results:
    return ""
  header = ["", "steps", "multiplications, 1e9", "excess before", "excess after"]
  header += ["median turn of a row, degrees", "s a step"]
  lines = []
  for arm, result in results.items():
    first, last = result["history"][0], result["history"][-1]
    numbers = [f"{last['step']}", f"{last['products'] / 1e9:.1f}"]
    numbers += [f"{first['excess']:.2f}", f"{last['excess']:.3f}"]
    numbers += [f"{result['turn']:.0f}", f"{result['seconds_a_step']:.2f}"]
    lines.append([NAMES[arm], *numbers])
  return f"{markdown(header, *lines)}\n\n{_made_with(results)}"


def _made_with(results):
  """Devices and versions, each once."""
  texts = {
    f"{result['device']}, jax {result['versions']['jax']}, Python "
    f"{result['versions']['python']}"
    for result in results.values()
  }
  return f"Made with: {'; '.join(sorted(texts))}."


def main(
  preset: Preset = "cpu",
  results: pathlib.Path = RESULTS,
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Makes the tables and figures.

  Args:
    preset: whose runs.
    results: folder of their JSON files.
    output: folder of scale.md and images; "docs" for those of the documentation.
  """
  console = Console()
  with told_in_a_line(console):
    classes = results_of(classifier.EXPERIMENT, preset, results)
    tokens = results_of(embedding.EXPERIMENT, preset, results)
    texts = blocks(classes, tokens)
    page = filled(output / "scale.md", "100,000 classes and tokens", texts)
    make_folder(output / "images")
  (output / "scale.md").write_text(page)
  pictures = save_all(
    [
      (output / "images" / "scale_classifier.png", draw_nearest(classes)),
      (output / "images" / "scale_embedding.png", draw_products(tokens)),
    ]
  )
  console.print(
    f"Wrote {output / 'scale.md'} and {len(pictures)} pictures.", highlight=False
  )


def blocks(classes: dict[str, dict], tokens: dict[str, dict]) -> dict[str, str]:
  """What is generated, by name, of the results of both."""
  texts = {"classifier": of_classifier(classes), "embedding": of_embedding(tokens)}
  return {name: text or "Not run yet." for name, text in texts.items()}


if __name__ == "__main__":
  tyro.cli(main)
