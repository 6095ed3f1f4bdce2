"""Docstrings of the API pages: doctests and references as Markdown."""

import re
import textwrap

import griffe

_HEADING = '<p><span class="doc-section-title">{}:</span></p>\n'
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
# A line that goes on with this sign is no quotation.
_AT_LEAST = re.compile(r"^( *)(?=>= )", re.MULTILINE)
_EXAMPLE = re.compile(r"^Examples?:\n", re.MULTILINE)
_REFERENCES = re.compile(r"^References:\n((?:    .*\n?|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Writes as Markdown what Google's style knows by another form."""

    def on_instance(self, *, obj, **kwargs):
        """Rewrites the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text):
    """A docstring whose examples are fenced, under headings of Markdown."""
    text = _AT_LEAST.sub(r"\1\\", text)
    text = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    text = _EXAMPLE.sub(_HEADING.format("Example"), text)
    return _REFERENCES.sub(
        lambda found: (
            _HEADING.format("References") + "\n" + textwrap.dedent(found[1])
        ),
        text,
    )
