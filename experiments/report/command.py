"""The command of a report: pages, their pictures, and what the README has of them."""

import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence

from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.report.pages import fill_file, filled_pages, write
from experiments.runs.results import Results
from experiments.runs.task import Preset, S


def write_report(
  name: str,
  title: str,
  settings: type[S],
  preset: Preset,
  results: pathlib.Path,
  output: pathlib.Path,
  readme: pathlib.Path | None = None,
  *,
  draw: Callable[[Preset, Results[S], pathlib.Path], list[pathlib.Path]],
  blocks: Callable[[Preset, Results[S]], dict[str, str]],
  others: Sequence[str] = (),
  in_readme: Mapping[str, Callable[[Preset, Results[S]], str]] = {},
  links: Callable[[Collection[str]], dict[str, str]] = lambda drawn: {},
) -> None:
  """Writes pages and pictures, and prints what is of the README.

  Errors of what was given are told in a line, before anything is written: no runs of
  the preset, a page of another one.

  Args:
    name: of the page, OUTPUT/NAME.md; pictures are OUTPUT/images/NAME_PICTURE.png.
    title: of a new page.
    settings: class of the settings of the runs.
    preset: whose runs.
    results: folder of their JSON files.
    output: folder.
    readme: a page of which parts are replaced, too, if there is one.
    draw: pictures into a folder.
    blocks: what is generated of the pages.
    others: names of further pages; a block is on that which has its marks.
    in_readme: what is generated of the README, by name.
    links: what else of the page, from the names of the pictures that were drawn.
  """
  console = Console()
  paths = [output / f"{page}.md" for page in (name, *others)]
  with told_in_a_line(console):
    found = Results(results, settings)
    words = {name: text(preset, found) for name, text in in_readme.items()}
    with tempfile.TemporaryDirectory() as folder:
      pictures = draw(preset, found, pathlib.Path(folder))
      drawn = {picture.stem.removeprefix(f"{name}_") for picture in pictures}
      if not pictures and not any(words.values()):
        raise InputError(
          f"results must hold runs of preset {preset!r}, two or more of a setting, got "
          f"none in {results}."
        )
      pages = filled_pages(paths, title, blocks(preset, found) | links(drawn))
      make_folder(output / "images")
      if readme is not None:
        fill_file(readme, words)
      for path, page in pages.items():
        write(path, page)
      for picture in pictures:
        shutil.copy(picture, output / "images")
  wrote = f"Wrote {', '.join(map(str, pages))} and {len(pictures)} pictures."
  console.print(
    *words.values(), wrote, sep="\n", highlight=False, markup=False, soft_wrap=True
  )
