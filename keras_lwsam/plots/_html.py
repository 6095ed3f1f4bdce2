"""Elements of a page, as strings in which everything is escaped."""

import base64
import hashlib
import html
import io
import re

# What HTML does not allow in a text.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

# CSS pixels an inch of a picture, and dots of the picture each of them has.
PIXELS, DENSITY = 134, 1.5


def text(value):
    """A text without any meaning as HTML."""
    return html.escape(_FORBIDDEN.sub("\ufffd", str(value)))


def table(caption, header, rows, name=""):
    """A table; the first cell of each row is its header."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in cells)
        + "</tr>\n"
        for first, *cells in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{text(name or caption)}">'
        f"<table>\n<caption>{text(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        "</table></div>\n"
    )


def picture(drawn, alt, caption):
    """A figure with the picture in it."""
    width, height = drawn.get_size_inches()
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=PIXELS * DENSITY, facecolor="white")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    kind = "wide" if width > 5.0 else "column"
    return (
        f'<figure class="{kind}"><div class="scroll">'
        f'<img src="data:image/png;base64,{data}" '
        f'width="{round(width * PIXELS)}" height="{round(height * PIXELS)}" '
        f'alt="{text(alt)}"></div>\n'
        f"<figcaption>{text(caption)}</figcaption></figure>\n"
    )


def page(title, sections):
    """A whole document.

    Args:
        title: Its heading.
        sections: A list of pairs: a heading, and a list of pairs of a heading
            and HTML.
    """
    entries, bodies = [], []
    for i, (name, parts) in enumerate(sections, start=1):
        links, inner = [], []
        for j, (heading, body) in enumerate(parts, start=1):
            at = f"section-{i}-{j}"
            links.append(f'<li><a href="#{at}">{text(heading)}</a></li>')
            inner.append(
                f'<section aria-labelledby="{at}">\n'
                f'<h3 id="{at}">{text(heading)}</h3>\n{body}</section>\n'
            )
        below = f"<ul>{''.join(links)}</ul>" if links else ""
        entries.append(
            f'<li><a href="#section-{i}">{text(name)}</a>{below}</li>\n'
        )
        bodies.append(
            f'<section aria-labelledby="section-{i}">\n'
            f'<h2 id="section-{i}">{text(name)}</h2>\n{"".join(inner)}'
            "</section>\n"
        )
    digest = hashlib.sha256(STYLE.encode()).digest()
    return _DOCUMENT.format(
        title=text(title),
        style=STYLE,
        digest=base64.b64encode(digest).decode("ascii"),
        contents="".join(entries),
        body="".join(bodies),
    )


# Nothing may be loaded or run, but this style and the pictures in the page.
_DOCUMENT = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; \
form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<nav aria-label="Contents"><ul>
{contents}</ul></nav>
<main>
{body}</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --line: #8886; --back: #8881; }
body { max-width: 62rem; margin: 0 auto; padding: 0 0.8rem 3rem;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid var(--line); }
nav { padding: 0.3rem 1rem; background: var(--back); }
nav ul { margin: 0.3rem 0; padding-left: 1.2rem; }
nav li ul { display: flex; flex-wrap: wrap; gap: 0 1.4rem; list-style: none;
  padding-left: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
caption { text-align: left; font-weight: bold; padding: 0.3rem 0; }
th, td { padding: 0.2rem 0.8rem 0.2rem 0.3rem; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top;
  min-width: 5rem; overflow-wrap: break-word; }
td { font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; display: inline-block; vertical-align: top;
  max-width: 100%; }
img { max-width: 100%; height: auto; display: block; background: white; }
figure.wide img { min-width: 38rem; }
figcaption { font-size: 0.9rem; padding: 0.3rem; contain: inline-size; }
"""
