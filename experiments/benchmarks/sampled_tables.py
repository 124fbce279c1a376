"""Tables and picture of :mod:`experiments.benchmarks.sampled`, from its JSON alone.

python -m experiments.benchmarks.sampled_tables    # fills docs/many.md
"""

import json
import pathlib

import numpy as np
import tyro

from experiments.benchmarks.timing import ratio
from experiments.report.markdown import markdown
from experiments.report.pages import fill


def tables(result: dict) -> dict[str, str]:
  """Tables and sentences by name, in Markdown."""
  return {
    "sampled-errors": errors(result["errors"]),
    "sampled-means": _means(result["means"], result["config"]["mean_draws"]),
    "sampled-million": _million(result["million"]),
    "sampled-rivals": _rivals(result["rivals"]),
    "ring": _ring(result["ring"]),
  }


def errors(results: list[dict]) -> str:
  """Of the gradient, by set and estimate."""
  sets = dict.fromkeys(entry["set"] for entry in results)
  slopes = " / ".join(f"{s:g}" for s in dict.fromkeys(e["s"] for e in results))
  header = ["estimate", *(f"{name}, s = {slopes}" for name in sets)]
  rows = [
    [
      method,
      *(
        " / ".join(
          f"{entry['errors'][method]:.2g}" for entry in results if entry["set"] == name
        )
        for name in sets
      ),
    ]
    for method in results[0]["errors"]
  ]
  return markdown(header, *rows)


def _means(results, draws):
  rows = [
    [
      entry["method"],
      entry["potential"],
      "half-space" if entry["half_space"] else "full space",
      f"{entry['value']:.1f}",
      f"{entry['rms']:.2f}",
      f"{entry['worst']:.1f}",
    ]
    for entry in results
  ]
  header = [
    f"mean of {draws} estimates", "potential", "space", "value",
    "gradient, root mean square", f"worst of {results[0]['entries']:,} entries",
  ]  # fmt: skip
  return markdown(header, *rows)


def _million(result):
  n, d = result["shape"]
  times = ratio(result["seconds"], "sampled", "products")
  seconds = result["seconds"]["sampled"]
  return (
    f"{n:,} x {d}: {np.median(seconds):.2f} s ({min(seconds):.1f} to "
    f"{max(seconds):.1f} in {len(seconds)} runs), {times:.1f} times the matrix "
    f"products that it contains; {result['temporary_mib']:,.0f} MiB besides input and "
    f"gradient, {result['peak_mib'] / 1024:.1f} GiB at the peak of the process, "
    "Python, JAX and both among them."
  )


def _rivals(results):
  rows = []
  for result in results:
    for name, seconds in result["seconds"].items():
      rows.append(
        [
          "{:,} x {}".format(*result["shape"]),
          name,
          _milliseconds(seconds),
          f"{ratio(result['seconds'], name, 'field'):.1f}",
        ]
      )
  header = ["neurons", "value and gradient", "ms: median (range)", "times as long"]
  return markdown(header, *rows)


def _milliseconds(seconds):
  least, median, most = 1e3 * np.quantile(seconds, [0.0, 0.5, 1.0])
  return f"{median:.1f} ({least:.1f} to {most:.1f})"


def _ring(result):
  n, d = result["shape"]
  mib, products = result["mib"], result["products"]
  return (
    f"{n:,} x {d} on {result['devices']} devices: value and gradient differ from those "
    f"of one device by {result['error_of_value']:.0e} and "
    f"{result['error_of_gradient']:.0e}; {mib['each']:.1f} MiB on each, where one "
    f"alone takes {mib['one']:.1f}; {products['each'] / products['least']:.2f} times "
    "the multiplications that an eighth of the pairs takes, each once; "
    f"{result['all_gathers']} gatherings of rows."
  )


def plot(result: dict, path: pathlib.Path) -> None:
  """Seconds of exact and of sampled energies over the number of neurons."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
  for name, color, power in (("exact", "#333333", 2), ("sampled", "#c8102e", 1)):
    points = [
      (entry["shape"][0], np.median(entry["seconds"][name]))
      for entry in result["growth"]
      if name in entry["seconds"]
    ]
    n, seconds = np.transpose(points)
    axes.loglog(n, seconds, "o-", color=color, markersize=4)
    samples = result["config"]["num_samples"]
    label = "exact" if name == "exact" else f"sampled, {samples} neurons"
    axes.annotate(label, points[-1], (6, 0), textcoords="offset points", color=color,
                  va="center")  # fmt: skip
    line = seconds[-1] * (n / n[-1]) ** power
    axes.loglog(n, line, ":", color=color, linewidth=0.8)
  axes.margins(x=0.05)
  axes.set_xlim(right=3 * max(result["config"]["growth"]) * 3)
  axes.set_xlabel("neurons")
  axes.set_ylabel("seconds, value and gradient")
  d = result["config"]["growth_dim"]
  axes.set_title(f"{d} weights each; dotted: proportional to N² and to N", fontsize=10)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def main(
  results: pathlib.Path = pathlib.Path("experiments/results/benchmark_sampled.json"),
  docs: pathlib.Path = pathlib.Path("docs"),
) -> None:
  """Fills docs/many.md, and draws its picture.

  Args:
    results: what the benchmark wrote.
    docs: folder of the page.
  """
  result, page = json.loads(results.read_text()), docs / "many.md"
  low = json.loads(results.with_stem(f"{results.stem}_low").read_text())
  texts = tables(result) | {"sampled-errors-low": errors(low["errors"])}
  page.write_text(fill(page.read_text(), texts, str(page)))
  plot(result, docs / "images" / "benchmark_sampled.png")


if __name__ == "__main__":
  tyro.cli(main)
