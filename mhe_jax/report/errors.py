"""Errors of whoever asks for a report, which the command tells without a traceback."""


class InputError(ValueError):
  """Something cannot be done as asked: no such file, a format that is not read.

  A class of its own, for a ValueError may also be a fault of the program, and then its
  traceback is needed.
  """
