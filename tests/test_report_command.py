"""The command, its files, and what happens when it is stopped."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file
from sets import normal

from mhe_jax import Gaussian, LayerRule, NeuronAxes, Riesz
from mhe_jax.report import InputError, compare, redundancy
from mhe_jax.report.command import main, potential_of, rule_of


@pytest.fixture
def model(tmp_path):
  path = tmp_path / "model.npz"
  layers = {f"layers.{i}.weight": normal(6, 5, seed=i) for i in range(4)}
  np.savez(path, **layers, **{"lm_head.weight": normal(7, 5), "table": normal(3, 2)})
  return path


# --- files ----------------------------------------------------------------------------


def test_json_is_strict_and_whole(model, tmp_path):
  damaged = normal(6, 5)
  damaged[0, 0] = np.nan
  np.savez(model, **{"a.weight": normal(6, 5), "b.weight": damaged, "table": damaged})
  report = redundancy(model, Riesz(2.0), half_space=False)

  def refuse(constant):
    raise ValueError(constant)

  content = json.loads(report.to_json(), parse_constant=refuse)
  assert content["potential"] == str(Riesz(2.0)) and content["half_space"] is False
  assert content["summary"] == report.summary
  first, last = content["rows"]
  assert first["name"] == "a.weight" and first["shape"] == [6, 5]
  assert first["relative_excess"] == report.rows[0].relative_excess
  assert last["relative_excess"] is None
  assert list(content["unknown"]) == ["table"]


def test_csv(model):
  report = redundancy(model)
  rows = list(csv.DictReader(io.StringIO(report.to_csv())))
  assert [row["name"] for row in rows] == [row.name for row in report]
  for line, row in zip(rows, report):
    assert float(line["relative_excess"]) == row.relative_excess
    assert line["closest"] == "{} {}".format(*row.closest)


def test_names_are_escaped_on_the_page(tmp_path):
  np.savez(tmp_path / "m.npz", **{"<script>.weight": normal(6, 5)})
  page = redundancy(tmp_path / "m.npz").to_html()
  assert "&lt;script&gt;.weight" in page and "<script>.weight" not in page
  assert page.startswith("<!doctype html>")


def test_names_do_not_reach_the_terminal_as_commands(tmp_path):
  save_file(
    {"\x1b[31m\n.weight": normal(6, 5), "\x1b[2J": normal(2, 2)},
    tmp_path / "m.safetensors",
  )
  text = str(redundancy(tmp_path / "m.safetensors"))
  assert "\x1b" not in text and "?[31m" in text and "?[2J" in text


def test_names_stay_in_their_line(tmp_path):
  tensors = {
    "a\n0 of 9 layers.weight": normal(6, 5),
    "b\n1 of 9": normal(6, 5),
    f"{'x' * 5000}.weight": normal(6, 5),
    "\u202ec.weight": normal(6, 5),  # Writes to the left, in a browser too.
  }
  save_file(tensors, tmp_path / "m.safetensors")
  # The table reads no newline in names: a rule does.
  rules = [
    LayerRule(r"a[\s\S]*", NeuronAxes(0)),
    LayerRule(".*c.weight", NeuronAxes(0)),
  ]
  report = redundancy(tmp_path / "m.safetensors", rules=rules)
  assert len(report) == 3 and {row.name for row in report} < {*tensors}
  lines = str(report).splitlines()
  assert max(map(len, lines)) < 500
  assert not any(line.startswith(("0 of 9", "1 of 9")) for line in lines)
  page = report.to_html()
  assert "\u202e" not in page and "x" * 200 not in page
  assert "x" * 5000 in report.to_csv() and "x" * 5000 in report.to_json()


def test_spreadsheets_run_no_names(tmp_path):
  names = ["=cmd|' /C calc'!A0.weight", "+a.weight", "-a.weight", "@a.weight"]
  save_file({name: normal(6, 5) for name in names}, tmp_path / "m.safetensors")
  report = redundancy(tmp_path / "m.safetensors")
  rows = list(csv.DictReader(io.StringIO(report.to_csv())))
  assert {row["name"] for row in rows} == {f"'{name}" for name in names}
  assert [json_row["name"] for json_row in json.loads(report.to_json())["rows"]] == [
    row.name for row in report
  ]


def test_text(model):
  report = redundancy(model)
  lines = str(report).splitlines()
  assert lines[0] == report.summary
  header, rule, *rows = lines[2:9]
  assert header.split()[0] == "layer" and set(rule) == {"-", " "}
  names = [line.split()[0].removesuffix("*") for line in rows]
  assert names == [row.name for row in report]
  assert {*report.assumed} == {row.name for row in report} - {"lm_head.weight"}
  assert "Output layers: lm_head.weight." in lines
  assert "Not read 1 (its name is not known" in str(report)


# --- stopped, and continued --------------------------------------------------------


class StoppedError(Exception):
  pass


def stop_at(name):
  def progress(done, total, layer):
    if layer == name:
      raise StoppedError

  return progress


def stop_and_continue(make, output):
  whole = make()
  with pytest.raises(StoppedError):
    make(output=output, progress=stop_at("layers.2.weight"))
  journal = output / "rows.jsonl"
  lines = journal.read_bytes().splitlines(keepends=True)
  assert len(lines) == 3  # What it is of, and two rows.
  # Killed while it wrote the second.
  journal.write_bytes(b"".join(lines[:2]) + lines[2][:-20])
  told = []
  continued = make(output=output, progress=lambda done, total, name: told.append(done))
  assert continued.to_json() == whole.to_json()
  assert told == sorted(told) and told[0] == 0.0
  written = journal.read_bytes().splitlines()
  assert len(written) == 1 + len(whole.rows)
  # What is there is not computed again: not even if it is wrong.
  row = json.loads(written[1])
  row["is_sampled"] = True
  journal.write_bytes(
    b"\n".join([written[0], json.dumps(row).encode(), *written[2:], b""])
  )
  assert make(output=output)[row["name"]].is_sampled


def test_a_report_goes_on(model, tmp_path):
  stop_and_continue(lambda **options: redundancy(model, **options), tmp_path / "out")


def test_a_comparison_goes_on(model, tmp_path):
  base = tmp_path / "base.npz"
  tensors = {k: x + 0.1 for k, x in np.load(model).items()}
  np.savez(base, **tensors)
  stop_and_continue(lambda **options: compare(model, base, **options), tmp_path / "out")


def test_rows_of_another_report_are_not_taken_up(model, tmp_path):
  output = tmp_path / "out"
  redundancy(model, output=output)
  for options, name in (
    (dict(half_space=False), "half_space"),
    (dict(exact_up_to=100), "exact_up_to"),
    (dict(potential=Riesz(2.0)), "potential"),
    (dict(rules=[LayerRule("table", NeuronAxes(0))]), "rules"),
  ):
    with pytest.raises(InputError, match=rf"rows of another report \({name} differs\)"):
      redundancy(model, output=output, **options)
  with pytest.raises(InputError, match=r"another report \(report"):
    compare(model, model, output=output)
  np.savez(model, **{"a.weight": normal(6, 5)})
  with pytest.raises(InputError, match=r"another report \(checkpoint differs\)"):
    redundancy(model, output=output)


def test_a_first_line_that_is_torn(model, tmp_path):
  output = tmp_path / "out"
  output.mkdir()
  (output / "rows.jsonl").write_bytes(b'{"report": "redun')
  assert len(redundancy(model, output=output)) == 5
  (output / "rows.jsonl").write_bytes(b"something else\n")
  with pytest.raises(InputError, match="is not a file of rows"):
    redundancy(model, output=output)
  assert (output / "rows.jsonl").read_bytes() == b"something else\n"
  with pytest.raises(InputError, match="output must be a folder"):
    redundancy(model, output=model)


def test_two_reports_at_once(model, tmp_path):
  output = tmp_path / "out"

  def another(done, total, name):
    if done == total:
      return
    with pytest.raises(InputError, match="is written by another report now"):
      redundancy(model, output=output)

  report = redundancy(model, output=output, progress=another)
  assert redundancy(model, output=output).to_json() == report.to_json()


@pytest.mark.parametrize(
  ("kind", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_command_that_is_killed_goes_on(model, tmp_path, kind, code, capsys):
  output = tmp_path / "out"
  # It stops before the third layer, and waits for its end there.
  program = (
    "import signal, time\n"
    "from mhe_jax.report import command, make\n"
    # What runs in the background of a shell has been told to ignore it.
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "def stop(*arguments, row=make.redundancy_row, rows=[]):\n"
    "  if len(rows) == 2:\n"
    "    print('here', flush=True)\n"
    "    time.sleep(60)\n"
    "  rows.append(row(*arguments))\n"
    "  return rows[-1]\n"
    "make.redundancy_row = stop\n"
    f"command.main([{str(model)!r}, '--output', {str(output)!r}])\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(kind)
    _, err = process.communicate()
  assert process.returncode == code
  if kind == signal.SIGINT:
    assert err == "Stopped; the same command goes on.\n"
  assert len((output / "rows.jsonl").read_text().splitlines()) == 3
  assert run(model, "--output", output, capsys=capsys)[0] == 0
  assert len((output / "rows.jsonl").read_text().splitlines()) == 6


def test_rows_are_not_written_into_a_tree(tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "tree", {"kernel": np.ones((3, 2))})
  for output in (tmp_path / "tree", tmp_path / "tree" / "report"):
    with pytest.raises(InputError, match="output must not be in the checkpoint"):
      redundancy(tmp_path / "tree", output=output)
    assert not (output / "rows.jsonl").exists()
  redundancy(tmp_path / "tree", output=tmp_path)
  assert len(redundancy(tmp_path / "tree", output=tmp_path)) == 1


# --- the command -------------------------------------------------------------------


def run(*arguments, capsys):
  """Exit code, and what it printed."""
  code = 0
  try:
    main([str(argument) for argument in arguments])
  except SystemExit as error:
    code = error.code
  return code, *capsys.readouterr()


def test_command(model, tmp_path, capsys):
  files = [tmp_path / f"report.{kind}" for kind in ("json", "csv", "html")]
  options = [word for path in files for word in (f"--{path.suffix[1:]}", path)]
  rules = ["--rule", "table=0", "--rule", "layers.[01].*=skip"]
  code, out, err = run(
    model, *options, *rules, "--potential", "riesz:2", "--full-space", capsys=capsys
  )
  report = redundancy(
    model,
    Riesz(2.0),
    half_space=False,
    rules=[LayerRule("table", NeuronAxes(0)), LayerRule("layers.[01].*", role="skip")],
  )
  assert (code, err) == (0, "")  # No bar, where there is no terminal.
  assert out == f"{report}\n"
  texts = [path.read_text() for path in files]
  assert texts == [report.to_json(), report.to_csv(), report.to_html()]


def test_files_that_cannot_be_written(model, tmp_path, capsys, monkeypatch):
  folder, other = tmp_path / "folder", tmp_path / "other.npz"
  folder.mkdir()
  (tmp_path / "link").symlink_to(model)
  np.savez(other, **np.load(model))
  content, of_other = model.read_bytes(), other.read_bytes()
  against = ["--against", other]
  for arguments, match in (
    (["--json", folder], "is a folder"),
    (["--json", model], "is of a checkpoint"),
    (["--csv", tmp_path / "link"], "is of a checkpoint"),
    ([*against, "--html", other], "is of a checkpoint"),
    (["--json", tmp_path / "config.json"], "is of a checkpoint"),
    (["--json", folder / "x", "--csv", folder / ".." / "folder" / "x"], "different"),
    (["--json", folder / ("x" * 5000)], "cannot be written"),
  ):
    code, out, err = run(model, *arguments, capsys=capsys)
    assert code == 2 and not out and match in err, arguments
  assert model.read_bytes() == content and other.read_bytes() == of_other
  assert not [*folder.iterdir()]
  monkeypatch.setattr("os.access", lambda path, mode: False)
  code, out, err = run(model, "--json", folder / "x", capsys=capsys)
  assert code == 2 and not out and "no permission" in err


def test_no_row_is_lost_with_a_file(model, tmp_path, capsys):
  # A disk that is full after hours.
  csv_file = tmp_path / "x.csv"
  code, out, err = run(model, "--json", "/dev/full", "--csv", csv_file, capsys=capsys)
  assert code == 2 and "json cannot be written" in err
  assert out == f"{redundancy(model)}\n" and csv_file.read_text()


def test_streams_that_are_closed_or_lack_letters(tmp_path):
  # More than a pipe holds.
  (tmp_path / "program.py").write_text(
    "from mhe_jax.report import command\n"
    "class Text(str): rows = [0]\n"
    "command.redundancy = lambda *_, **options: Text('層 0\\n' * 100_000)\n"
    "command.main(['model'])\n"
  )
  program = f"{sys.executable} {tmp_path / 'program.py'}"
  for command, expected in (
    (f"{program} | head -n 1", "層 0\n"),
    (f"PYTHONIOENCODING=ascii {program} 2>&-", "? 0\n" * 100_000 + "\n"),
    (f"{program} >&-", ""),
  ):
    result = subprocess.run(
      ["bash", "-o", "pipefail", "-c", command],
      check=False,
      capture_output=True,
      text=True,
      env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert (result.returncode, result.stderr) == (0, ""), command
    assert result.stdout == expected


def test_command_against(model, capsys):
  code, out, _ = run(model, "--against", model, capsys=capsys)
  assert code == 0 and out.startswith("0 of 5 layers changed.")


def test_a_bar_on_a_terminal(model, capsys, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setattr(sys, "stderr", terminal)
  code, out, _ = run(model, capsys=capsys)
  assert code == 0 and out.startswith("1 layer, nothing unusual.")
  assert "reading" in terminal.getvalue() or "layers." in terminal.getvalue()


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    (["--potential", "coulomb"], "potential must be riesz:S"),
    (["--potential", "riesz:x"], "potential 'riesz:x'"),
    (["--rule", "table"], "rule must be PATTERN=AXES"),
    (["--rule", "table=first"], "got 'first'"),
    (["--rule", "(=0"], "is not a regular expression"),
    (["--rule", "table=batch:0"], "must name an axis of neurons"),
    (["--rule", "table=skip,output"], "must say one thing"),
    (["--rule", "table=0,skip"], "must say one thing"),
    (["--rule", "table=0,groups:2,groups:3"], "must say one thing"),
    (["--rule", "table=0,groups:0"], "groups must be a whole number"),
    (["--rule", "nothing=0"], "matches no path"),
    (["--exact-up-to", "1"], "exact-up-to must be at least 2"),
    (["--json", "/nowhere/x.json"], "must be in a folder that is there"),
    (["--against", "/nowhere"], "is not there"),
  ],
)
def test_bad_arguments_are_told_in_a_line(model, arguments, match, capsys):
  code, out, err = run(model, *arguments, capsys=capsys)
  assert code == 2 and not out
  assert match in err and "Traceback" not in err


def test_nothing_is_imported_that_is_not_asked_for(model):
  program = (
    "import sys, mhe_jax.report as r\n"
    f"r.redundancy({str(model)!r})\n"
    "print({'torch', 'rich', 'tyro', 'orbax', 'safetensors'} & {*sys.modules})"
  )
  result = subprocess.run(
    [sys.executable, "-c", program], check=True, capture_output=True, text=True
  )
  assert result.stdout == "set()\n"


def test_rules_of_the_command():
  for text, axes in (
    (".*/w=0", NeuronAxes(0)),
    (".*expert.*=-1,batch:0", NeuronAxes(-1, batch=0)),
    ("a=-2,-1", NeuronAxes((-2, -1))),
    ("a=0, groups:3", NeuronAxes(0, groups=3)),
  ):
    assert rule_of(text).axes == axes
  assert rule_of("(?P<x>a=b)=output") == LayerRule("(?P<x>a=b)", role="output")
  assert rule_of("a=0,output") == LayerRule("a", NeuronAxes(0), "output")
  assert rule_of("a=skip") == LayerRule("a", role="skip")


def test_potentials_of_the_command():
  assert potential_of("riesz:0") == Riesz(0.0)
  assert potential_of("riesz:1:geodesic") == Riesz(1.0, "geodesic")
  assert potential_of("gaussian:2") == Gaussian(2.0)
