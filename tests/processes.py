"""Experiments as processes of their own."""

import json
import os
import subprocess
import sys

VOLATILE = ("seconds", "device", "versions", "environments")


def environment():
  """Without the fake devices of this process."""
  flags = os.environ.get("XLA_FLAGS", "").split()
  kept = (flag for flag in flags if "device_count" not in flag)
  return {**os.environ, "XLA_FLAGS": " ".join(kept), "PYTHONIOENCODING": "utf-8"}


def start(module, *arguments):
  """A process of an experiment."""
  return subprocess.Popen(
    [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment(),
  )


def finish(process, code=0):
  """What it printed."""
  text, _ = process.communicate(timeout=600)
  assert process.returncode == code, text
  return " ".join(text.split())


def result_in(folder):
  (path,) = folder.glob("*.json")
  result = json.loads(path.read_text())
  assert path.stem == result["name"]
  return {name: value for name, value in result.items() if name not in VOLATILE}
