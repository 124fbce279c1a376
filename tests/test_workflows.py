"""What GitHub runs: its files can be read, and what they call is there."""

import pathlib
import re
import subprocess
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / ".github").rglob("*.yml"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_can_be_read(path):
  content = yaml.safe_load(path.read_text())
  if path.parent.name == "workflows":
    assert content["jobs"] and content["permissions"] == {"contents": "read"}
    scripts = re.findall(r"bash (\.ci/\w+)", path.read_text())
    assert scripts
    for script in scripts:
      assert (ROOT / script).is_file()
      subprocess.run(["bash", "-n", ROOT / script], check=True)
  elif path.stem != "config":
    assert {"name", "description", "body"} <= set(content)
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids))


def test_nothing_is_published_by_itself():
  texts = {path.stem: path.read_text() for path in FILES}
  assert "upload dist" not in texts["release"].replace("`twine upload` by hand", "")
  publish = yaml.safe_load(texts["documentation"])["jobs"]["publish"]
  assert publish["if"].startswith("vars.PUBLISH_DOCS == 'true' &&")


def test_the_citation_is_of_this_version():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert citation["version"] == VERSION and citation["cff-version"] == "1.2.0"
  assert (
    f"## {VERSION} ({citation['date-released']})" in (ROOT / "CHANGELOG.md").read_text()
  )


@pytest.mark.parametrize("tag", ["v9.9.9", "0.2.0"])
def test_a_release_of_another_tag_is_refused(tag):
  done = subprocess.run(
    ["bash", ROOT / ".ci/release", tag], check=False, capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr == f"tag {tag} is not v{VERSION} of pyproject.toml\n"
