"""Pages with parts that are generated, between marks."""

import pathlib
import textwrap

from experiments.errors import InputError


def fill(page: str, texts: dict[str, str], name_of_page: str = "the page") -> str:
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
      raise InputError(
        f"{name_of_page} must have {start} and then {end} once; if it is of another "
        "preset, name another output."
      )
    before, rest = page.split(start)
    page = f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"
  return page


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


def new_page(title: str, texts: dict[str, str]) -> str:
  """A page of nothing but what is generated."""
  parts = [f"## {name}\n\n<!-- {name} -->\n<!-- end of {name} -->\n" for name in texts]
  return fill("\n".join([f"# {title}\n", *parts]), texts)


def filled(path: pathlib.Path, title: str, texts: dict[str, str]) -> str:
  """The page of a file, filled; a new page if there is none.

  Raises:
    InputError: a name has no place in the page.
  """
  if not path.exists():
    return new_page(title, texts)
  return fill(read(path), texts, str(path))
