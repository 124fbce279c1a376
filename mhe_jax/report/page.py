"""A report as a page of HTML that stands alone: sortable, in light and dark."""

import html
import re
from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --stripe: #f4f4f4;
        --line: #888; --bar: #9bbcf2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #16181c; --stripe: #20242b; --line: #666;
          --bar: #35578f; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 88rem;
       padding: 0 1rem; color: var(--text); background: var(--page); }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { max-width: 6.5rem; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--page); white-space: normal; overflow-wrap: anywhere;
  min-width: 9rem; max-width: min(26rem, 45vw); }
thead th { border-bottom: 2px solid var(--line); cursor: pointer; }
thead th[aria-sort]::after { content: " \\2193"; }
thead th[aria-sort=ascending]::after { content: " \\2191"; }
tbody tr:nth-child(even) td { background-color: var(--stripe); }
td.bar { background-image: linear-gradient(var(--bar), var(--bar));
  background-repeat: no-repeat; background-position: right bottom;
  background-size: var(--share) 3px; min-width: 5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
@media (max-width: 600px) { body { font-size: 13px; } dl { display: block; }
  dd { margin: 0 0 .4rem 1rem; } }
"""
_SORT = """
for (const th of document.querySelectorAll("thead th")) th.onclick = () => {
  const up = th.getAttribute("aria-sort") === "descending";
  for (const x of th.parentNode.children) x.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = document.querySelector("tbody"), i = th.cellIndex;
  const key = row => row.cells[i].textContent, number = row => parseFloat(key(row));
  const last = up ? Infinity : -Infinity;
  const value = row => isNaN(number(row)) ? last : number(row);
  const order = i && [...body.rows].some(row => !isNaN(number(row)))
    ? (a, b) => value(a) - value(b) : (a, b) => key(a).localeCompare(key(b));
  const rows = [...body.rows].sort(order);
  body.append(...(up ? rows : rows.reverse()));
};
"""


def as_page(
  title: str,
  summary: str,
  header: Sequence[str],
  cells: Sequence[Sequence[str]],
  notes: Sequence[str],
  *,
  explained: Mapping[str, str],
  bars: str,
) -> str:
  """A page; names from a checkpoint are escaped.

  Args:
    title: with the name of the file.
    summary: what the table says.
    header: of its columns, the first of names.
    cells: of its rows.
    notes: below it.
    explained: what columns mean.
    bars: the column with a bar in each row, as long as its number is large.
  """
  at = header.index(bars)
  numbers = [
    abs(float(m[0])) if (m := _NUMBER.search(row[at])) else 0.0 for row in cells
  ]
  largest = max(numbers, default=0.0) or 1.0

  def cell(i, text, number):
    bar = f' class="bar" style="--share: {number / largest:.0%}"' if i == at else ""
    return f"<td{bar}>{html.escape(text)}</td>"

  body = "\n".join(
    f"<tr>{''.join(cell(i, text, number) for i, text in enumerate(row))}</tr>"
    for row, number in zip(cells, numbers)
  )
  head = "".join(
    f'<th title="{html.escape(explained.get(name, ""))}">{html.escape(name)}</th>'
    for name in header
  )
  meaning = "\n".join(
    f"<dt>{html.escape(name)}</dt><dd>{html.escape(explained[name])}</dd>"
    for name in header
    if name in explained
  )
  below = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(summary)}</p>\n"
    f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
    f"<tbody>\n{body}\n</tbody>\n</table></div>\n{below}\n"
    f"<h2>Columns</h2>\n<dl>\n{meaning}\n</dl>\n"
    f"<script>{_SORT}</script>\n</body>\n</html>\n"
  )


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
