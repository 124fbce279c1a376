"""Pages with parts that are generated, between marks."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

from experiments.errors import InputError


def fill(page: str, texts: Mapping[str, str], name_of_page: str = "the page") -> str:
  """The page, with new text between the marks of each name.

  Args:
    page: its text.
    texts: ``{name: text}``.
    name_of_page: for the error.

  Raises:
    InputError: a name has no place in the page.
  """
  for name, text in texts.items():
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    once = page.count(start) == page.count(end) == 1
    if not once or page.index(end) < page.index(start):
      raise _no_place(name, name_of_page)
    before, rest = page.split(start)
    page = f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"
  return page


def _no_place(name, pages):
  return InputError(
    f"{pages} must have <!-- {name} --> and then <!-- end of {name} --> once; if it is "
    "of another preset, name another output."
  )


def fill_pages(
  pages: Mapping[pathlib.Path, str], texts: Mapping[str, str]
) -> dict[pathlib.Path, str]:
  """Pages, with each text on the one that has its marks.

  Args:
    pages: their texts.
    texts: ``{name: text}``.

  Raises:
    InputError: a name has no place in any page, or one in several.
  """
  pages = dict(pages)
  for name, text in texts.items():
    found = [path for path, page in pages.items() if f"<!-- {name} -->" in page]
    if len(found) == 1:
      pages[found[0]] = fill(pages[found[0]], {name: text}, str(found[0]))
    else:
      raise _no_place(name, " or ".join(map(str, pages)))
  return pages


def fill_file(path: pathlib.Path, texts: dict[str, str]) -> None:
  """Fills a page that is there.

  Raises:
    InputError: it is not there, or a name has no place in it.
  """
  if not path.is_file():
    raise InputError(f"readme must be a file, got {path}.")
  write(path, fill(read(path), texts, str(path)))


def read(path: pathlib.Path) -> str:
  """The text of a page.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return path.read_text()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"{path} cannot be read: {error}") from error


def write(path: pathlib.Path, text: str) -> None:
  """Writes a page.

  Raises:
    InputError: it cannot be written.
  """
  try:
    path.write_text(text)
  except OSError as error:
    raise InputError(f"{path} cannot be written: {error}") from error


def wrapped(text: str, indent: str = "") -> str:
  """A paragraph in lines of at most 88 columns.

  Args:
    text: of the paragraph.
    indent: of all lines but the first.
  """
  return textwrap.fill(
    text, 88, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
  )


def bullet(text: str) -> str:
  """An entry of a list."""
  return wrapped(f"- {text}", indent="  ")


def new_page(title: str, texts: Mapping[str, str]) -> str:
  """A page of nothing but what is generated."""
  parts = [f"## {name}\n\n<!-- {name} -->\n<!-- end of {name} -->\n" for name in texts]
  return fill("\n".join([f"# {title}\n", *parts]), texts)


def filled_pages(
  paths: Sequence[pathlib.Path], title: str, texts: Mapping[str, str]
) -> dict[pathlib.Path, str]:
  """The pages of files, filled; if there is none of them, the first, a new page.

  Raises:
    InputError: a name has no place in any page, or one in several.
  """
  pages = {path: read(path) for path in paths if path.exists()}
  return fill_pages(pages, texts) if pages else {paths[0]: new_page(title, texts)}


def filled(path: pathlib.Path, title: str, texts: Mapping[str, str]) -> str:
  """:func:`filled_pages` of one page."""
  return filled_pages([path], title, texts)[path]
