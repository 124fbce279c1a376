"""What a result says of the code that it was made with."""

import pathlib
import shutil
import subprocess

import pytest

from experiments import environment
from experiments.environment import revision

UNKNOWN = {"revision": None, "clean": None}
SOURCE = pathlib.Path(environment.__file__)


@pytest.fixture(autouse=True)
def _ask_anew():
  revision.cache_clear()
  yield
  revision.cache_clear()


def sources(root):
  """A tree with the module in its place."""
  (root / "experiments").mkdir(parents=True)
  shutil.copy(SOURCE, root / "experiments")
  return root


def git(root, *arguments):
  names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
  command = ["git", *names, *arguments]
  done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
  return done.stdout.strip()


def checkout(root):
  git(sources(root), "init", "-q")
  git(root, "add", ".")
  git(root, "commit", "-q", "-m", "first")
  return root


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
class TestOfACheckout:
  def test_it_is_the_commit_and_says_what_differs(self, tmp_path):
    root = checkout(tmp_path)
    commit = git(root, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert revision(root) == {"revision": commit, "clean": True}
    (root / "result.json").write_text("{}")  # No run makes its own tree unclean.
    revision.cache_clear()
    assert revision(root) == {"revision": commit, "clean": True}
    with (root / "experiments" / SOURCE.name).open("a") as file:
      file.write("# changed\n")
    assert revision(root)["clean"]  # What runs is what was there when it started.
    revision.cache_clear()
    assert revision(root) == {"revision": commit, "clean": False}

  def test_it_is_not_that_of_another_repository(self, tmp_path, monkeypatch):
    other = checkout(tmp_path / "other")
    assert revision(sources(other / "nested")) == UNKNOWN
    untracked = tmp_path / "untracked"
    untracked.mkdir()
    (untracked / "a").touch()
    git(untracked, "init", "-q")
    git(untracked, "add", ".")
    git(untracked, "commit", "-q", "-m", "other")
    assert revision(sources(untracked)) == UNKNOWN
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert revision(sources(tmp_path / "plain")) == UNKNOWN
    revision.cache_clear()
    assert revision(other)["clean"]

  def test_it_is_unknown_without_a_commit(self, tmp_path):
    git(sources(tmp_path), "init", "-q")
    assert revision(tmp_path) == UNKNOWN

  def test_it_is_unknown_without_git(self, tmp_path, monkeypatch):
    root = checkout(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(root) == UNKNOWN

  def test_it_is_unknown_if_git_does_not_end(self, tmp_path, monkeypatch):
    def run(command, *, timeout, **_):
      raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert revision(tmp_path) == UNKNOWN


def test_it_is_unknown_outside_of_a_checkout(tmp_path):
  assert revision(sources(tmp_path)) == UNKNOWN
  assert revision(tmp_path / "nowhere") == UNKNOWN


def test_it_is_among_the_versions():
  versions = environment.environment()["versions"]
  assert {"revision", "clean"} <= set(versions)
