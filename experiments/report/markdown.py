"""Tables for the documentation."""


def markdown(header: list[str], *rows: list[str]) -> str:
  """A table of texts."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
