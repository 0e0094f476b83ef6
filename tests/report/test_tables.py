"""The printed tables: bold, evidence marks, captions and escaping in Markdown, LaTeX and CSV."""

import csv
import re

import pytest

from benchmark.report import build, published
from benchmark.report.render import latex, markdown

EVIL = r"a_b & 100% <i>$x^2$</i> \input{y} #1 ~ [z] | *q*"


pytestmark = pytest.mark.usefixtures("without_plots")


def read(folder, name):
    build(folder.store)
    return (folder.store.root / "tables" / name).read_text(encoding="utf-8")


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_best_of_a_column_is_bold_and_the_whole_set_is_not(folder):
    folder.done([0.24], method="dc")
    folder.done([0.26], method="dm")
    folder.done([0.30], method="dc", ipc=10)
    folder.done([0.28], method="dm", ipc=10)
    folder.done([0.85], method="whole", ipc=0)
    text = read(folder, "accuracy.md")
    dc, dm = lines_of(text, "| DC |")[0], lines_of(text, "| DM |")[0]
    assert "**30.0**" in dc and "**24.0**" not in dc and "**26.0**" in dm and "**28.0**" not in dm
    assert "85.0" in lines_of(text, "| Whole set |")[0] and "**85.0**" not in text
    tex = read(folder, "accuracy.tex")
    assert r"\textbf{30.0}" in tex and r"\textbf{26.0}" in tex and r"\multicolumn{2}{c}{85.0" in tex
    assert "**" not in read(folder, "accuracy.csv") and "textbf" not in read(folder, "accuracy.csv")


def test_ties_at_the_printed_precision_are_all_bold(folder):
    folder.done([0.26001], method="dc")
    folder.done([0.26002], method="dm")
    assert read(folder, "accuracy.md").count("**26.0**") == 2


def test_evidence_marks(folder):
    folder.done([0.30], method="dc")  # official
    folder.done([0.30], method="dm")  # secondary
    folder.done([0.30], method="cafe", dataset="svhn")  # unverified
    text = read(folder, "accuracy.md")
    assert r"\[28.3\]" in lines_of(text, "| DC |")[0]
    assert r"\[26.0 <sup>s</sup>\]" in lines_of(text, "| DM |")[0]
    assert "(42.6?)" in lines_of(text, "| cafe |")[0]
    assert "unverified, not to be taken as fact" in text
    tex = read(folder, "accuracy.tex")
    assert "{[}28.3{]}" in tex and "{[}26.0$^{s}${]}" in tex and "(42.6?)" in tex
    page = (folder.store.root / "index.html").read_text()
    assert 'class="pub official"' in page and 'class="pub secondary"' in page and 'class="pub unverified"' in page
    assert "recalled from the original paper" in page


def test_unknown_evidence_counts_as_the_weakest(monkeypatch, tmp_path):
    (tmp_path / "published").mkdir()
    header = "method,dataset,ipc,accuracy,std,source,evidence,protocol_note\n"
    (tmp_path / "published" / "published.csv").write_text(f"{header}dm,CIFAR10,1,26.0,,somewhere,offical,\n")
    monkeypatch.setattr(published, "files", lambda package: tmp_path)
    published._table.cache_clear()
    try:
        assert published.lookup("dm", "CIFAR10", 1, "convnet").evidence == "unverified"
    finally:
        published._table.cache_clear()


def test_missing_and_failed_are_printed(folder):
    folder.done([0.30], method="dc")
    folder.missing(method="dm")
    folder.failed(method="hmn", error="budget too small")
    text = read(folder, "accuracy.md")
    assert lines_of(text, "| DM |")[0].startswith("| DM | –")
    assert "failed: budget too small" in lines_of(text, "| HMN |")[0]
    assert "failed: budget too small" in read(folder, "cost.md")
    assert "& --" in read(folder, "accuracy.tex")


def test_every_caption_names_the_schedule(folder):
    folder.done([0.30], schedule="0.05")
    folder.done([0.30], schedule="paper")
    for name in ("accuracy.md", "accuracy.tex", "cost.md", "cost.tex"):
        text = read(folder, name)
        assert "schedule 0.05: not comparable with published numbers" in text
        assert text.index("schedule paper") < text.index("schedule 0.05")
    page = (folder.store.root / "index.html").read_text()
    assert page.count('class="diff"') == 1  # a difference is given for schedule paper only


def test_columns_lead_with_the_smallest_ipc(folder):
    for ipc in (50, 1, 10):
        folder.done([0.30], dataset="digits", schedule="quick", ipc=ipc)
    header = read(folder, "accuracy.csv").splitlines()[0]
    assert header == "schedule,protocol,network,method,variant,digits ipc1,digits ipc10,digits ipc50"


def test_whole_set_has_its_own_column_in_csv(folder):
    folder.done([0.30])
    folder.done([0.85], method="whole", ipc=0)
    rows = list(csv.DictReader(read(folder, "accuracy.csv").splitlines()))
    assert (rows[0]["cifar10 ipc1"], rows[0]["cifar10 whole"]) == ("30.0", "")
    assert (rows[1]["cifar10 ipc1"], rows[1]["cifar10 whole"]) == ("", "85.0")


def test_cross_architecture_exists_only_for_several_networks(folder):
    folder.done([0.30], method="hmn")
    read(folder, "accuracy.md")
    paths = [folder.store.root / "tables" / f"cross_architecture.{suffix}" for suffix in ("csv", "md", "tex")]
    assert not any(path.exists() for path in paths)
    folder.done([0.30], method="hmn", networks=("vgg16", "convnet"))
    text = read(folder, "cross_architecture.md")
    assert "| Data set | IPC | Method | convnet | vgg16 |" in text and r"\[58.5 <sup>s</sup>\]" in text
    assert "vgg16" not in read(folder, "accuracy.md")
    folder.done([0.30], method="hmn")
    read(folder, "accuracy.md")
    assert not any(path.exists() for path in paths)


def test_cost_table(folder):
    folder.done([0.30], method="hmn", extra={"condensation": {"images": 60000, "images_per_class": 6000.0}})
    folder.done([0.85], method="whole", ipc=0)
    hmn, _ = csv.DictReader(read(folder, "cost.csv").splitlines())
    assert (hmn["floats"], hmn["budget_multiple"], hmn["bytes"]) == ("30720", "1", "122880")
    assert (hmn["bits_per_class"], hmn["images_per_class"]) == ("98304", "6000")
    assert (hmn["evaluation_steps"], hmn["evaluation_seconds"], hmn["condensation_steps"]) == (
        "10000",
        "3.25",
        "1000",
    )
    assert (hmn["device"], hmn["evaluation_peak_memory_mib"]) == ("CPU 2 threads", "")
    # More decoded images than real ones: the whole set's accuracy and training stand beside it.
    note = "60,000 images decoded, 50,000 real; the whole set reaches 85.0 % in 10,000 steps"
    assert note in read(folder, "cost.md")


def test_disclosure_is_printed_with_the_rows(folder):
    folder.done([0.30], method="hmn", extra={"method": {"disclosure": "Our reading of the paper."}})
    assert "HMN<sup>1</sup>" in read(folder, "accuracy.md")
    for name in ("accuracy.md", "accuracy.tex", "accuracy.csv", "cost.md"):
        assert "Our reading of the paper." in read(folder, name)
    assert (folder.store.root / "index.html").read_text().count("Our reading of the paper.") >= 2


def braces_balance(text):
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    return depth == 0


def test_latex_is_escaped_and_balanced(folder):
    folder.done([0.30], method="evil", extra={"method": {"title": EVIL, "disclosure": EVIL}})
    folder.failed(method="dm", error=EVIL)
    text = read(folder, "accuracy.tex")
    assert braces_balance(text) and text.count("$") % 2 == text.count(r"\$") % 2
    assert r"a\_b \& 100\% \textless{}i\textgreater{}\$x\textasciicircum{}2\$" in text
    assert r"\textbackslash{}input\{y\} \#1 \textasciitilde{} {[}z{]}" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 1
    assert not set(re.findall(r"[^\x00-\x7f]", text))


@pytest.mark.parametrize("character", list('\\{}$&%#_~^<>[]*|"`±×–−…漢\n\0'))
def test_latex_of_one_character(character):
    text = latex(character)
    assert braces_balance(text) and text.isascii() and "\n" not in text
    assert text != character or character in "*"


def test_markdown_cannot_be_broken_by_names(folder):
    folder.done([0.30], method="evil", extra={"method": {"title": EVIL}}, hyper={"a": "x|y"})
    folder.done([0.20], method="evil", extra={"method": {"title": EVIL}}, hyper={"a": "line\nbreak"})
    lines = [line for line in read(folder, "accuracy.md").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "<i>" not in "\n".join(lines)
    assert markdown("[x](y) <b>") == r"\[x\](y) &lt;b&gt;"


def container(name):
    return {"method": {"container": name}}


def test_containers_under_one_objective_stand_together(folder):
    folder.done([0.50], method="idc", extra=container("idc"))
    moved = {"objective": "idc", "variant": "objective=idc"}
    folder.done([0.40], method="idc-i", extra=container("pixels"), **moved)
    folder.done([0.45], method="haba", extra=container("haba"), **moved)
    folder.failed(method="haba", ipc=10, **moved)
    folder.missing(method="idc", ipc=10)
    folder.done([0.60], method="haba", extra=container("haba"))  # alone under a loop of its own: no table of that
    folder.done([0.62], method="hmn", extra=container("hmn"))  # IDC's loss, but by other settings of the loop
    folder.done([0.30], method="dm", extra=container(""))
    lines = list(csv.DictReader(read(folder, "containers.csv").splitlines()))
    assert [line["container"] for line in lines] == ["pixels", "idc", "haba"]
    assert {line["objective"] for line in lines} == {"idc"}
    text = (folder.store.root / "tables" / "containers.md").read_text()
    assert "**50.0**" in text and r"\[36.7 <sup>s</sup>\]" in text and r"\[48.5 <sup>s</sup>\]" in text
    assert "60.0" not in text
    assert "budget too small" in lines_of(text, "| Bases")[0] and "–" in lines_of(text, "| Multi-formation")[0]
    assert 'id="containers"' in (folder.store.root / "index.html").read_text()
    accuracy = (folder.store.root / "tables" / "accuracy.md").read_text()
    own, other = lines_of(accuracy, "| haba |")[0], lines_of(accuracy, "| haba (objective=idc) |")[0]
    assert "60.0" in own and "45.0" in other and "\\[48.3" in own and "\\[" not in other, "of HaBa's own loop alone"
    rows = list(csv.DictReader(read(folder, "results.csv").splitlines()))
    assert {"haba", "haba [objective=idc]"} < {row["method"] for row in rows}


@pytest.mark.parametrize("variant", ["objective=dm", "lr=1.0"])
def test_a_cell_that_is_not_quite_the_method_is_never_shown_as_it(folder, variant):
    """Neither beside the method's own cell, nor alone."""
    moved = {"objective": "dm"} if "objective" in variant else {}
    folder.done([0.53], method="dc", variant=variant, **moved)
    shown = variant.replace("1.0", "1")
    assert lines_of(read(folder, "accuracy.md"), "| DC ") == lines_of(read(folder, "accuracy.md"), f"| DC ({shown})")
    folder.done([0.72], method="dc")
    lines = lines_of(read(folder, "accuracy.md"), "| DC ")
    assert [("72.0" in line, "53.0" in line) for line in lines] == [(True, False), (False, True)]
    assert f"({shown})" not in lines[0] and f"({shown})" in lines[1]


@pytest.mark.parametrize("kind", ["containers", "pruning"])
def test_networks_do_not_mix(folder, kind):
    for method, name in (("idc", "idc"), ("idc-i", "pixels")):
        for network, accuracy in (("resnet18", 0.5), ("vgg11", 0.2)):
            extra = container(name) | {"condensation": {"notes": {"gipc": 4}}}
            moved = {"objective": "idc", "variant": "objective=idc"} if method == "idc-i" else {}
            folder.done([accuracy], method=method, networks=(network,), extra=extra, seed=len(network), **moved)
    lines = list(csv.DictReader(read(folder, f"{kind}.csv").splitlines()))
    value = "accuracy" if kind == "pruning" else "cifar10 ipc1"
    assert [(line["network"], line[value]) for line in lines] == [("resnet18", "50.0")] * 2 + [("vgg11", "20.0")] * 2
    assert kind == "pruning" or not any("published" in name for line in lines for name in line)


def test_published_containers_belong_to_their_own_objective():
    assert published.lookup_container("hmn", "idc", "CIFAR10", 10, "convnet").accuracy == 73.7
    assert published.lookup_container("hmn", "dm", "CIFAR10", 10, "convnet") is None
    assert published.lookup_container("hmn", "idc", "", 10, "convnet") is None
    assert published.lookup_container("hmn", "idc", "CIFAR10", 10, "resnet18") is None


def test_one_container_makes_no_table(folder):
    folder.done([0.50], method="idc", extra=container("idc"))
    build(folder.store)
    assert not (folder.store.root / "tables" / "containers.csv").exists()
    assert 'id="containers"' not in (folder.store.root / "index.html").read_text()


def test_pruning_table_of_results_that_have_it_among_their_notes(folder):
    notes = {"gipc": 87, "gipc_over": 96, "pruned_per_class": 9, "beta": 0.4, "trainings_for_aum": 1}
    folder.done([0.66], method="hmn", extra={"condensation": {"notes": notes | {"trainings_for_beta": 22}}})
    plain = {"gipc": 87, "gipc_over": 87, "pruned_per_class": 0}
    folder.done([0.64], method="hmn-noprune", extra={"condensation": {"notes": plain}})
    folder.done([0.26], method="dm")
    asked = {"condensation": {"notes": notes | {"trainings_for_beta": 0}}}
    folder.done([0.65], method="hmn", ipc=10, extra=asked)
    hmn, control, given = csv.DictReader(read(folder, "pruning.csv").splitlines())
    assert (hmn["method"], hmn["gipc_over"], hmn["gipc"], hmn["beta"]) == ("hmn", "96", "87", "0.4")
    assert (hmn["trainings_for_beta"], hmn["accuracy"]) == ("22", "66.0")
    assert (control["method"], control["pruned_per_class"], control["beta"]) == ("hmn-noprune", "0", "")
    assert (given["ipc"], given["beta"]) == ("10", "0.4; given")
    assert 'id="pruning"' in (folder.store.root / "index.html").read_text()


def test_pruning_table_of_several_seeds(folder):
    """What every condensation chose, not what the first did."""
    for seed, beta in enumerate((0.0, 0.5, 1.0)):
        pruning = {"gipc": 87, "gipc_over": 96, "beta": beta, "trainings_for_beta": 22}
        extra = {"condensation": {"pruning": pruning, "train_images": 45_000}}
        folder.done([0.6 + seed / 100], method="hmn", seed=seed, extra=extra)
    (line,) = csv.DictReader(read(folder, "pruning.csv").splitlines())
    assert (line["beta"], line["trainings_for_beta"], line["train_pool"]) == ("0 0.5 1", "22", "45000")
    assert "0.00 / 0.50 / 1.00" in (folder.store.root / "tables" / "pruning.md").read_text()
