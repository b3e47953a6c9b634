"""Sphinx configuration."""

import warnings

import nbnet

project = "nbnet"
author = "nbnet developers"
copyright = author
version = release = nbnet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "nbnet"
html_static_path = ["_static"]
html_css_files = ["nbnet.css"]
html_sidebars = {page: [] for page in ("*", "auto_examples/index")}  # the gallery's pages keep theirs
html_theme_options = {
    "header_links_before_dropdown": 4,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "navbar_end": ["theme-switcher"],
    "footer_end": [],
}

autodoc_typehints = "none"  # numpydoc's sections name the types
numpydoc_show_class_members = False  # pages of the API list what they show

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
}

warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive", category=UserWarning)
