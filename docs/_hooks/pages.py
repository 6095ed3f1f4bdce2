"""Pages of the site: formulas as MathML, links that lead out of the site."""

import html
import posixpath
import re

from latex2mathml import converter

# What `pymdownx.arithmatex` makes of `$$...$$` and `$...$`.
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
_INLINE = re.compile(
    r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL
)
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)\)")
_PAPER = re.compile(r"(?<![/\w>.])arXiv:(\d{4}\.\d{4,5})")


def on_page_markdown(markdown, page, **kwargs):
    """Names the files of the repository that are no part of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(link):
        text, target = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if not path.startswith("../"):
            return link[0]
        return f"{text} (`{path.removeprefix('../')}`)"

    return _LINK.sub(named, markdown)


def on_page_content(content, **kwargs):
    """Writes formulas as MathML, which browsers draw by themselves."""
    content = _BLOCK.sub(
        lambda found: (
            f'<div class="formula">{_mathml(found[1], "block")}</div>'
        ),
        content,
    )
    content = _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)
    return _PAPER.sub(
        r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', content
    )


def _block(found):
    return f'<div class="formula">{_mathml(found[1], "block")}</div>'


def _mathml(latex, display):
    return converter.convert(html.unescape(latex).strip(), display=display)
