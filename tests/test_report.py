"""`plots.read_run` and `plots.report`: what is read, written and refused."""

import base64
import html.parser
import io
import os
import re

import numpy as np
import pytest

from keras_lwsam import plots
from tests import recorded

LOSSES = recorded.only(recorded.history(), "loss")
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """The elements of a page: tag, attributes, and the texts in each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def of(self, tag):
        return [t for opened, t in self.texts if opened[-1:] == (tag,) and t]


def page_of(folder, **kwargs):
    path = plots.report(folder, **kwargs)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with names that are to do no harm, the second with less."""
    folder = tmp_path_factory.mktemp("runs")
    recorded.write(folder / "one", recorded.run("<script>alert(1)</script>"))
    less = plots.Run(
        "a\"b & 'c'",
        {"name": "a\"b & 'c'"},
        recorded.history(),
        sharpness=recorded.sharpness(seed=1),
        landscapes={"line": recorded.line()},
    )
    recorded.write(folder / "two", less)
    return folder


@pytest.fixture(scope="module")
def page(runs):
    """The report of both."""
    return page_of(runs)


def test_the_page_needs_nothing_else(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert "style" not in attributes
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,"))
    (style,) = page.of("style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (m for m in page.all("meta") if "http-equiv" in m)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_the_page_says_what_it_is(page):
    assert page.elements[0] == ("html", {"lang": "en"})
    metas = page.all("meta")
    assert metas[0] == {"charset": "utf-8"}
    assert any(meta.get("name") == "viewport" for meta in metas)
    assert page.of("title") == ["Training report: 2 runs"] == page.of("h1")


def test_pictures_are_whole_and_described(page):
    from PIL import Image

    images = page.all("img")
    assert len(images) == 3 + (1 + 8 + 6 + 3) + (1 + 2 + 1)
    for image in images:
        data = base64.b64decode(image["src"].split(",")[1], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
            width, height = picture.size
        shown = int(image["width"]), int(image["height"])
        assert width / height == pytest.approx(shown[0] / shown[1], rel=0.02)
        assert width >= shown[0] > 300
        assert len(image["alt"]) > 30
    assert len(page.all("figure")) == len(page.all("figcaption")) == len(images)
    alts = [image["alt"] for image in images]
    assert any("loss from 2 to 0.667" in alt for alt in alts)
    assert any("of 4 layers by 3 epochs" in alt for alt in alts)
    assert any("1 loss not finite" in alt for alt in alts)


def test_names_do_no_harm_and_are_seen(page):
    assert page.of("h2") == [
        "Comparison",
        "<script>alert(1)</script>",
        "a\"b & 'c'",
    ]


def test_contents_lead_to_sections(page):
    ids = [attributes.get("id") for _, attributes in page.elements]
    ids = [name for name in ids if name]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for attributes in page.all("a")]
    assert links == ids
    assert len(links) == len(page.of("h2")) + len(page.of("h3"))
    labelled = [a["aria-labelledby"] for a in page.all("section")]
    assert set(labelled) == set(ids)


def test_tables_have_headers_and_numbers(page):
    assert {header["scope"] for header in page.all("th")} == {"col", "row"}
    assert "method" in " ".join(page.of("caption"))
    assert "rho" in page.of("th")
    for cell in ("0.05", "a, b", "0.6667", "training log"):
        assert cell in page.of("td"), cell
    assert any(re.fullmatch(r"\S+ ± 1.5", cell) for cell in page.of("td"))


def test_one_run_has_no_comparison(tmp_path):
    run = plots.Run("x", {"name": "x"}, LOSSES)
    page = page_of(recorded.write(tmp_path / "folder", run))
    assert page.of("h1") == ["Training report: x"]
    assert page.of("h2") == ["x"]
    assert (tmp_path / "folder" / "report.html").exists()


ALONE = {
    "configuration": ({"name": "x"}, "Configuration"),
    "history": (recorded.history(), "Training"),
    "layer_norms": (
        recorded.only(recorded.layer_norms(), "gradient_norm"),
        "Norms of the layers",
    ),
    "layer_norms_model": (recorded.model_norms(), "Norms of the layers"),
    "sharpness_layers": (
        recorded.only(recorded.layer_sharpness(), "trace", "trace_error"),
        "Sharpness",
    ),
    "sharpness": (recorded.sharpness(), "Sharpness"),
    "landscapes": ({"line": recorded.line()}, "Loss landscapes"),
}


@pytest.mark.parametrize("part", ALONE)
def test_any_part_alone_makes_a_report(tmp_path, part):
    value, heading = ALONE[part]
    folder = recorded.write(tmp_path / "run", plots.Run("x", **{part: value}))
    page = page_of(folder)
    assert heading in page.of("h3")
    assert set(page.of("h3")) <= {heading, "Last numbers"}
    assert bool(page.all("img")) == (part != "configuration")


def test_numbers_that_are_not_known_are_left_out(tmp_path):
    run = plots.Run(
        "diverged",
        {},
        [{"epoch": 0, "loss": np.nan, "accuracy": np.inf}],
        recorded.only(
            recorded.layer_norms(gradient_norm=0.0, cosine=np.nan),
            *("gradient_norm", "weight_norm", "cosine"),
        ),
        landscapes={"nowhere": recorded.plane(np.full((9, 7), np.inf))},
    )
    page = page_of(recorded.write(tmp_path / "run", run))
    assert "Training" not in page.of("h3")
    assert {"nan", "inf"} <= set(page.of("td"))
    assert not any("Cosine" in text for text in page.of("figcaption"))
    assert any("no loss is finite" in text for text in page.of("p"))


def test_what_is_written_is_read_again(tmp_path):
    run = recorded.run()
    read = plots.read_run(recorded.write(tmp_path / "run", run))
    assert read.configuration == run.configuration
    for part in recorded.FILES:
        for row, expected in zip(
            getattr(read, part), getattr(run, part), strict=True
        ):
            assert row == pytest.approx(expected, nan_ok=True)
    assert sorted(read.landscapes) == ["line", "plane"]
    assert np.array_equal(
        read.landscapes["line"].losses, recorded.line().losses
    )


def test_a_line_that_was_cut_is_dropped(tmp_path):
    """At every byte: rows that are whole stay, no other appears."""
    recorded.write(tmp_path, plots.Run("x", layer_norms=recorded.layer_norms()))
    table = tmp_path / "layer_norms.csv"
    data = table.read_bytes()
    whole = plots.read_run(tmp_path).layer_norms
    assert len(whole) == 12
    for end in range(0, len(data), 7):
        table.write_bytes(data[:end])
        rows = plots.read_run(tmp_path).layer_norms
        assert len(rows) >= data[:end].count(b"\n") - 1
        for row, expected in zip(rows, whole, strict=False):
            assert row == pytest.approx(expected, nan_ok=True)


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n")
    assert plots.read_run(tmp_path).history == []
    assert page_of(tmp_path).of("h2") == [tmp_path.name]


def test_what_csv_logger_writes_instead_of_numbers(tmp_path):
    text = 'epoch,loss,per_class\n0,NA,"""[0.5, 0.25]"""\n1,inf,\n'
    (tmp_path / "history.csv").write_text(text)
    first, second = plots.read_run(tmp_path).history
    assert np.isnan([first["loss"], first["per_class"]]).all()
    assert second["loss"] == np.inf


def test_other_arrays_are_left_alone(tmp_path):
    recorded.write(tmp_path, plots.Run("x", history=LOSSES))
    np.savez(tmp_path / "weights.npz", kernel=np.ones(3))
    assert plots.read_run(tmp_path).landscapes == {}


def test_runs_of_one_name_are_told_apart(tmp_path):
    for folder in "ab":
        run = plots.Run("x", {"name": "x"}, LOSSES)
        recorded.write(tmp_path / folder, run)
    assert page_of(tmp_path).of("h2") == ["Comparison", "x", "x (b)"]


BROKEN = {
    "run.json": [b"{", b"[]", b"\xff", b"[" * 100_000],
    "history.csv": [b"loss\n1\n", b"epoch,loss\n0\n", b"epoch\nx\n", b"\xff\n"],
    "layer_norms.csv": [b"epoch,gradient_norm\n0,1\n"],
    "sharpness_layers.csv": [b"epoch,layer,trace\n0,a,many\n"],
    "layer_norms_model.csv": [b"epoch,selected\n0,perhaps\n"],
    "plane.npz": [b"", b"PK\x03\x04 cut"],
}


@pytest.mark.parametrize(
    ("file", "data"),
    [(file, data) for file, every in BROKEN.items() for data in every],
    ids=lambda value: str(value)[:12],
)
def test_a_malformed_file_is_named(tmp_path, file, data):
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ValueError, match=rf"'{file}'[\s\S]*Received: .*\("):
        plots.read_run(tmp_path)
    with pytest.raises(ValueError, match=file):
        plots.report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_directories_without_a_run_are_refused(tmp_path):
    for call in (plots.read_run, plots.report):
        with pytest.raises(ValueError, match="does not exist"):
            call(tmp_path / "none")
        with pytest.raises(ValueError, match="nothing in it"):
            call(tmp_path)
        with pytest.raises(TypeError, match="Received: run_dir=3"):
            call(3)
    (tmp_path / "note.txt").write_text("")
    with pytest.raises(ValueError, match=r"history\.csv.*note\.txt"):
        plots.read_run(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        plots.report(tmp_path / "note.txt")


def test_the_page_goes_where_it_is_told(tmp_path):
    run = plots.Run("x", history=LOSSES)
    folder = recorded.write(tmp_path / "run", run)
    path = plots.report(str(folder), tmp_path / "here.html")
    assert path == tmp_path / "here.html"
    assert not (folder / "report.html").exists()
    with pytest.raises(ValueError, match="Received: path="):
        plots.report(folder, tmp_path)
    with pytest.raises(ValueError, match="Received: path="):
        plots.report(folder, tmp_path / "none" / "page.html")
    with pytest.raises(TypeError, match="Received: path="):
        plots.report(folder, 3)


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path, monkeypatch
):
    recorded.write(tmp_path, plots.Run("x", history=LOSSES))
    page = tmp_path / "report.html"
    page.write_text("old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.report(tmp_path)
    assert page.read_text() == "old"
    assert {f.name for f in tmp_path.iterdir()} == {"history.csv", page.name}


def test_strange_names_are_written(tmp_path):
    name = "nul\x00 $\\alpha$ _ \ud800 層 \u202e"
    layers = ("net/<i>", "net/$b$", "net/c,d")
    run = plots.Run(
        name,
        {"name": name, "key\x07": {"<k>": None}},
        LOSSES,
        recorded.only(recorded.layer_norms(layers), "gradient_norm"),
    )
    recorded.write(tmp_path / "a", run)
    page = page_of(tmp_path / "a")
    assert "\x00" not in page.of("h1")[0]
    assert "<k>" in page.of("th")
    assert any("net/" in image["alt"] for image in page.all("img"))
