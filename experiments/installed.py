"""Files of installed packages, which are read and not imported.

An import can cost seconds, or bring in PyTorch, for a file that takes a tenth of one.
"""

import importlib.metadata
import pathlib


def installed_files(package: str, pattern: str) -> list[pathlib.Path]:
  """Those that are there; none without the package.

  Args:
    package: as pip knows it.
    pattern: of the end of their paths, as :meth:`pathlib.PurePath.match` has it.
  """
  try:
    files = importlib.metadata.files(package) or []
  except importlib.metadata.PackageNotFoundError:
    return []
  paths = [pathlib.Path(str(file.locate())) for file in files if file.match(pattern)]
  return [path for path in paths if path.is_file()]
