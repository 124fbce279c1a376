"""Sphinx configuration; the build fails when a public name is undocumented."""

import os
import pathlib
import re

import jax
from sphinx.util.typing import stringify_annotation

import mhe_jax

project = "mhe_jax"
author = "The mhe_jax authors"
copyright = "2026, The mhe_jax authors"
version = release = mhe_jax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
  "sphinx-mathjax-offline",  # Formulas without another host.
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_templates"]
html_theme = "furo"
html_title = f"mhe_jax {release}"
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
# Versions of a site that has several: .ci/documentation.
templates_path = ["_templates"]
html_context = {
  "versions": os.environ.get("DOCS_VERSIONS", "").split(),
  "this_version": os.environ.get("DOCS_VERSION", ""),
}
html_sidebars = {
  "**": [
    "sidebar/brand.html",
    "sidebar/search.html",
    "sidebar/scroll-start.html",
    "sidebar/navigation.html",
    "versions.html",
    "sidebar/scroll-end.html",
  ]
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def check_every_public_name_is_documented(app):
  reference = (pathlib.Path(app.srcdir) / "api.md").read_text()
  listed = set(re.findall(r"^\.\. auto\w+:: (\w+)", reference, re.MULTILINE))
  public = set(mhe_jax.__all__)
  if listed != public:
    raise RuntimeError(
      f"docs/api.md lacks {sorted(public - listed)} and has {sorted(listed - public)}, "
      "which are not public."
    )
  for name in public:
    if not (getattr(mhe_jax, name).__doc__ or "").strip():
      raise RuntimeError(f"mhe_jax.{name} has no docstring.")


# Python writes out what an alias stands for before Sphinx can see its name, and
# autodoc_type_aliases has no effect without annotations that are strings.
ARRAY_LIKE = stringify_annotation(jax.typing.ArrayLike, "smart")


def name_aliases(app, what, name, obj, options, signature, return_annotation):
  """Writes ``ArrayLike`` for its eight types; those that are left are an error."""
  short = (signature or "").replace(ARRAY_LIKE, "ArrayLike")
  if "complex" in short:
    raise RuntimeError(f"The signature of {name} has an alias written out: {short}")
  return short or signature, return_annotation


def setup(app):
  app.connect("autodoc-process-signature", name_aliases)
  app.connect("builder-inited", check_every_public_name_is_documented)
