"""The page and the plots: valid, self-contained, and unmoved by markup in names and messages."""

import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from PIL import Image

from benchmark.report import build

VOID = {"meta", "br", "img", "link", "input", "hr"}
SCRIPT = "<script>alert(1)</script>"


class Checker(HTMLParser):
    """Every element closed in order, every id once, every address inside the page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.addresses, self.tags, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "data", "action", "srcset"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def check(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    for address in checker.addresses:
        assert address.startswith("data:image/") or address.removeprefix("#") in checker.ids, address[:80]
    assert not re.search(r"@import|url\(", path.read_text(encoding="utf-8"))
    return checker


def fill(folder):
    """Two data sets, two protocols, two seeds, gaps: about what a user has in the middle of a grid."""
    for dataset in ("cifar10", "digits"):
        for number, method in enumerate(("random", "dm", "dsa", "hmn")):
            for ipc in (1, 10):
                for seed in (0, 1):
                    nets = [0.2 + 0.05 * number + 0.1 * (ipc == 10) + 0.01 * net for net in range(3)]
                    fields = {"method": method, "dataset": dataset, "ipc": ipc, "seed": seed}
                    protocols = ("unified", "native") if dataset == "cifar10" else ("unified",)
                    directory = folder.done(nets, protocols, **fields)
                    folder.losses(directory, [1.0 / step for step in range(1, 60)])
                    folder.preview(directory)
    folder.done([0.85], method="whole", ipc=0)
    folder.missing(method="dc")
    folder.failed(method="haba")


@pytest.fixture(scope="module")
def filled(new_folder):
    """A filled folder with its report; drawn once, since drawing is slow."""
    fill(new_folder)
    build(new_folder.store)
    return new_folder.store.root


def test_page_is_valid_and_asks_for_nothing_outside(filled):
    checker = check(filled / "index.html")
    text = " ".join(checker.words)
    for word in ("CIFAR-10", "DM", "failed: budget too small", "needs 40 floats", "CPU 2 threads", "float32", "2.15.0"):
        assert word in text
    assert {"accuracy", "cost", "plots", "images", "failures", "read", "sources"} <= set(checker.ids)
    assert "script" not in checker.tags


def test_empty_page_is_valid(folder):
    assert "accuracy" not in check(build(folder.store)).ids


def test_plots_open_and_svgs_parse(filled):
    plots = filled / "plots"
    names = {
        f"{kind}_{name}"
        for kind in ("accuracy_vs_ipc", "accuracy_vs_seconds", "loss")
        for name in ("cifar10", "digits")
    }
    assert {path.name for path in plots.iterdir()} == {f"{n}.{s}" for n in names for s in ("png", "svg")}
    for path in plots.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    for path in plots.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_plots_without_data_any_more_go(folder):
    folder.done([0.2])
    plots = folder.store.root / "plots"
    plots.mkdir(parents=True)
    (plots / "loss_svhn.png").write_bytes(b"old")
    (plots / "mine.png").write_bytes(b"kept")
    build(folder.store)
    assert not (plots / "loss_svhn.png").exists() and (plots / "mine.png").exists()


def test_markup_in_names_and_messages_is_text(folder):
    folder.done([0.2], method="_x<b>$y_1$", dataset=f"folder:/a/{SCRIPT}&", extra={"method": {"disclosure": SCRIPT}})
    folder.done([0.2], method="_x<b>$y_1$", dataset=f"folder:/a/{SCRIPT}?", hyper={"note": f'"{SCRIPT}'})
    folder.failed(error=SCRIPT, message=f"</p></div>{SCRIPT}", method="dm")
    checker = check(build(folder.store))
    assert "script" not in checker.tags and SCRIPT in " ".join(checker.words)
    names = [path.name for path in (folder.store.root / "plots").glob("accuracy_vs_ipc_*.png")]
    assert len(names) == 2 and all(re.fullmatch(r"[a-z0-9_-]+\.png", name) for name in names)


def test_previews_are_embedded_and_large_ones_shrunk(folder):
    folder.preview(folder.done([0.2]))
    big = folder.done([0.2], method="dc")
    Image.effect_noise((900, 900), 80).convert("RGB").save(big / "preview.png")
    page = build(folder.store).read_text()
    sheets = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="(\d+)" height="(\d+)"', page)
    assert sorted((int(width), int(height)) for _, width, height in sheets) == [(80, 80), (520, 520)]
    assert all(b64decode(data).startswith(b"\x89PNG") for data, _, _ in sheets)
    assert max(len(data) for data, _, _ in sheets) < 500_000


def test_one_method_one_ipc_one_net(folder):
    folder.done([0.2], schedule="quick", dataset="digits", extra={"condensation": {"seconds": 0.0}})
    check(build(folder.store))
    assert (folder.store.root / "plots/accuracy_vs_ipc_digits.svg").exists()


def test_building_twice_gives_the_same_files(folder):
    folder.losses(folder.done([0.2, 0.3]), [3.0, 2.0, 1.0])
    folder.failed(method="haba")
    build(folder.store)

    def files():
        paths = [p for p in folder.store.root.rglob("*") if p.is_file() and p.suffix in (".csv", ".md", ".tex", ".svg")]
        return {path: path.read_bytes() for path in paths}

    first = files()
    build(folder.store)
    assert files() == first
