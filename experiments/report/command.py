"""The command of a report: a page, its pictures, and what the README has of it."""

import pathlib
from collections.abc import Callable, Collection

from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.report.pages import fill_file, filled
from experiments.runs.results import Results
from experiments.runs.task import S


def write_report(
  name: str,
  title: str,
  settings: type[S],
  results: pathlib.Path,
  output: pathlib.Path,
  readme: pathlib.Path | None,
  *,
  draw: Callable[[Results[S], pathlib.Path], list[pathlib.Path]],
  blocks: Callable[[Results[S], Collection[str]], dict[str, str]],
  in_readme: Callable[[Results[S]], dict[str, str]],
) -> None:
  """Writes OUTPUT/NAME.md and OUTPUT/images, and prints what is of the README.

  Errors of what was given are told in a line.

  Args:
    name: of the page; pictures are NAME_PICTURE.png.
    title: of a new page.
    settings: class of the settings of the runs.
    results: folder of their JSON files.
    output: folder.
    readme: a page of which parts are replaced, too, if there is one.
    draw: pictures into a folder.
    blocks: what is generated of the page, from the results and the names of the
      pictures there are.
    in_readme: what is generated of the README.
  """
  console, path = Console(), output / f"{name}.md"
  with told_in_a_line(console):
    found = Results(results, settings)
    words = in_readme(found)
    make_folder(output / "images")
    pictures = draw(found, output / "images")
    names = {picture.stem.removeprefix(f"{name}_") for picture in pictures}
    page = filled(path, title, blocks(found, names))
    if readme is not None:
      fill_file(readme, words)
  path.write_text(page)
  console.print(*words.values(), sep="\n", highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and {len(pictures)} pictures.", highlight=False)
