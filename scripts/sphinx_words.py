"""Links the first use of each word of the glossary, on every page (loaded by sphinx_pwl.py).

The links are made while pages are built and do not stand in the chapters: a {term} role would be shown as raw markup in Jupyter
and on Colab, and a plain link to glossary.md leads nowhere on Colab. So the text of a chapter stays plain text, and a
new word or chapter gets its links by itself.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
WITHOUT = re.compile(r"book/(glossary|references|exercises|state|api.*)$|genindex|search")
# What stands inside these is a name, a link, a formula or the output of a program, not prose.
NOT_PROSE = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.title,
             nodes.caption, addnodes.pending_xref, addnodes.download_reference)


def words(app: Sphinx) -> dict[str, tuple[str, str]]:
    """{word: (anchor, definition)} of the glossary."""
    env = app.env
    if GLOSSARY not in env.all_docs:
        return {}
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        definition = next(item.findall(nodes.definition)).astext().replace("\n", " ")
        for term in item.findall(nodes.term):
            word = next(node.astext() for node in term.children if isinstance(node, nodes.Text))
            found[word] = (term["ids"][0], definition)
    return found


def pattern(found: dict[str, tuple[str, str]]) -> re.Pattern:
    """Matches a word or its plural, the longest first; abbreviations only in capitals."""
    def anyhow(word: str) -> str:
        return r"\s+".join(map(re.escape, word.split()))  # in a text that is broken into lines, between any two words

    each = [
        f"(?:{anyhow(word)}|{anyhow(word.capitalize())})" if word.islower() else anyhow(word)
        for word in sorted(found, key=len, reverse=True)
    ]
    return re.compile(rf"(?<![\w/-])({'|'.join(each)})(?:e?s)?(?![\w/-])")


def link_first_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn the first use of each entry's words into a link to the glossary."""
    if app.builder.format != "html" or not (found := words(app)):
        return
    expression = pattern(found)
    used: dict[str, set[str]] = {}  # definitions by page: the single-page book holds all of them
    for paragraph in list(doctree.findall(nodes.paragraph)):
        page = _page(paragraph, docname)
        if WITHOUT.match(page) or _inside(paragraph, NOT_PROSE, "cell_output"):
            continue
        _join_lines(paragraph)
        for text in list(paragraph.findall(nodes.Text)):
            title = isinstance(text.parent, nodes.emphasis) and len(text.split()) > 3  # of a work
            if not title and not _inside(text, NOT_PROSE, stop=paragraph):
                _link(app, text, found, expression, used.setdefault(page, set()), docname)


def _link(app: Sphinx, text: nodes.Text, found: dict, expression: re.Pattern, used: set[str], docname: str) -> None:
    """Replace one text by itself with links."""
    parts: list[nodes.Node] = []
    rest = 0
    for match in expression.finditer(text.astext()):
        said = " ".join(match[1].split())
        anchor, definition = found[said if said in found else said.lower()]
        if definition in used:
            continue
        used.add(definition)
        target = f"{app.builder.get_relative_uri(docname, GLOSSARY)}#{anchor}"
        link = nodes.reference("", match[0], internal=True, refuri=target, reftitle=definition, classes=["word"])
        parts += [nodes.Text(text.astext()[rest : match.start()]), link]
        rest = match.end()
    if parts:
        text.parent.replace(text, [*parts, nodes.Text(text.astext()[rest:])])


def _join_lines(paragraph: nodes.paragraph) -> None:
    """Make one text of those that stand side by side: each line of the source is one of its own."""
    for parent in list(paragraph.findall(nodes.TextElement)):  # the paragraph is one too
        joined: list[nodes.Node] = []
        for child in parent.children:
            if isinstance(child, nodes.Text) and joined and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
            else:
                joined.append(child)
        parent.children = []
        parent.extend(joined)


def _inside(node: nodes.Node, kinds: tuple, css_class: str = "", stop: nodes.Node | None = None) -> bool:
    """Whether one of the node's parents, up to `stop`, is of these kinds or has this class."""
    parent = node.parent
    while parent is not None and parent is not stop:
        if isinstance(parent, kinds) or (css_class and css_class in parent.get("classes", [])):
            return True
        parent = parent.parent
    return False


def _page(node: nodes.Node, docname: str) -> str:
    """The page that a node is from, also where all pages are joined into one."""
    while node is not None:
        if isinstance(node, addnodes.start_of_file):
            return node["docname"]
        node = node.parent
    return docname


def remember_glossary(app: Sphinx, doctree: nodes.document) -> None:
    """A changed glossary makes all pages anew."""
    app.env.note_dependency(f"{GLOSSARY}.md")


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", remember_glossary)
    app.connect("doctree-resolved", link_first_uses)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
