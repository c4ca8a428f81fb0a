"""The book's own Sphinx extension (named in _config.yml).

- Images made by cells get their alt text from the output's metadata, where pwl_lite.plots.show puts it; an
  image without one is a warning.
- Without a finished web_static/vendor/ (see scripts/vendor.py) pages load the same scripts from public
  CDNs.
- Pages with a place for the demo, and no others, load its script and style sheet. The place is a container of the class
  pwl-demo, or in a notebook a Markdown cell with nothing but <div class="pwl-demo"></div>: Jupyter shows nothing there.
- While the repository's address is not set, links into the repository are left out of the pages' header.
- What MyST-NB and the theme write into a page in a way that screen readers stumble over is mended.

Further parts: sphinx_pages.py (pages made from the book's own files) and sphinx_words.py (links to the glossary).
"""

import base64
import hashlib
import json
import os
import re
from pathlib import Path

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)

MATHJAX_CDN = "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-mml-chtml.js"
REQUIRE_CDN = "https://cdn.jsdelivr.net/npm/requirejs@2.3.8/require.min.js"
WIDGETS_CDN = "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@1.0.15/dist/embed-amd.js"


def choose_scripts(app: Sphinx, config: Config) -> None:
    """Point to CDNs if the vendor folder is not there."""
    if (Path(app.srcdir) / "web_static" / "vendor" / "COMPLETE").is_file():
        return
    logger.info(
        "web_static/vendor is not filled: pages will load MathJax and the widget manager from public CDNs"
    )
    config.mathjax_path = MATHJAX_CDN
    config.nb_ipywidgets_js = {
        REQUIRE_CDN: {"crossorigin": "anonymous", "defer": "defer"},
        WIDGETS_CDN: {"crossorigin": "anonymous", "defer": "defer"},
    }


def hide_unset_address(app: Sphinx, config: Config) -> None:
    """Leave out buttons that would lead nowhere."""
    options = config.html_theme_options
    if "OWNER_NOT_SET" in options.get("repository_url", ""):
        for button in ("use_repository_button", "use_issues_button", "use_edit_page_button"):
            options[button] = False
        options["launch_buttons"] = {}


def alt_texts(notebook: Path) -> dict[str, str]:
    """{stem of the file name that MyST-NB gives an output image, its sha256: its alt text}."""
    found = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for mime, content in output.get("data", {}).items():
                if not mime.startswith("image/"):
                    continue
                text = "".join(content)
                if mime == "image/svg+xml":
                    image = os.linesep.join(text.splitlines()).encode()
                else:
                    image = base64.b64decode(text)
                about = output.get("metadata", {}).get(mime, {})
                found[hashlib.sha256(image).hexdigest()] = (
                    about.get("alt", "") if isinstance(about, dict) else ""
                )
    return found


def set_alt_texts(app: Sphinx, doctree: nodes.document) -> None:
    """Give every image of this page its alt text."""
    source = Path(app.env.doc2path(app.env.docname))
    texts = alt_texts(source) if source.suffix == ".ipynb" else {}
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            image["alt"] = texts.get(Path(image["uri"]).stem, "")
        if not image["alt"]:
            logger.warning("an image without alt text: %s", image["uri"], location=app.env.docname)


# The name of a folded cell would hide its text from voice control; entries of a bibliography are no items of a list.
MENDED = ((' aria-label="Toggle hidden content"', ""), ('<div role="list" class="citation-list', '<div class="citation-list'))


def mend_names(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Mend what is wrong in the page's own text; what scripts add later is mended by web_static/names.js."""
    for wrong, right in MENDED:
        if "body" in context:
            context["body"] = context["body"].replace(wrong, right)
    if page == "_modules/index":  # lists inside lists without an item
        head, start, rest = context["body"].partition("<ul>")
        context["body"] = head + start + re.sub("</?ul>", "", rest) + "</ul>"


DEMO = re.compile(r'\s*<div class="pwl-demo">\s*</div>\s*')
WITHOUT_SCRIPTS = "The demo runs in the rendered book, in a browser with JavaScript."


def place_demos(app: Sphinx, doctree: nodes.document) -> None:
    """Make a container of a notebook's place for the demo, with the words for readers without JavaScript."""
    for raw in list(doctree.findall(nodes.raw)):
        if raw.get("format") == "html" and DEMO.fullmatch(raw.astext()):
            words = nodes.paragraph("", WITHOUT_SCRIPTS)
            raw.replace_self(nodes.container("", words, classes=["pwl-demo"]))


def add_demo(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Load the demo where a page has a place for it (files added here are for this page only).

    It comes before the other scripts that wait for the page: they are large, and a reader may start it meanwhile.
    """
    if doctree is not None and any("pwl-demo" in box["classes"] for box in doctree.findall(nodes.container)):
        app.add_css_file("demo/demo.css")
        app.add_js_file("demo/start.js", priority=100, loading_method="defer")


def gather_views(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """The page that is the whole book needs what MyST-NB gives each chapter's own: widgets and their scripts."""
    if app.builder.name != "singlehtml":
        return
    added = set()
    for chapter in sorted(app.env.found_docs):
        for file, options in NbMetadataCollector.get_js_files(app.env, chapter).values():
            if (file, options.get("body")) not in added:  # a script once, each chapter's widgets
                added.add((file, options.get("body")))
                app.add_js_file(file, **options)


def offer_pdf(app: Sphinx) -> None:
    """Publish the book to print (scripts/build_single_page.py) beside the pages, where it has been made before them."""
    pdf = Path(app.srcdir) / "_build" / "book.pdf"
    if app.builder.name == "html" and pdf.is_file():
        app.tags.add("pdf")
        app.config.html_extra_path.append(str(pdf))


def renew_link_to_pdf(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """The first page is read again at each build, as it has the link if the book to print is there."""
    return ["book/intro"] if "book/intro" in env.found_docs else []


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx_pages")
    app.setup_extension("sphinx_words")
    # Before MyST-NB (priority 500) reads its settings.
    app.connect("config-inited", choose_scripts, priority=100)
    app.connect("config-inited", hide_unset_address, priority=100)
    app.connect("builder-inited", offer_pdf)
    app.connect("env-get-outdated", renew_link_to_pdf)
    app.connect("doctree-read", set_alt_texts)
    app.connect("doctree-read", place_demos)
    app.connect("html-page-context", mend_names)
    app.connect("html-page-context", add_demo)
    app.connect("html-page-context", gather_views)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
