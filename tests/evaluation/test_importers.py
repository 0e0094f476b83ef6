"""--evaluate: sets of the DC/DSA/DM authors, folders of images, our own files; nothing in them is executed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import data
from benchmark.cli import main
from benchmark.evaluation.importers import ForeignSetError, read_sets


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", Path())


def images_and_labels():
    return torch.randn(20, 1, 8, 8), torch.arange(10).repeat_interleave(2)


def test_authors_file_with_numpy_accuracies(tmp_path, digits):
    images, labels = images_and_labels()
    path = tmp_path / "res_DC_digits_ConvNet_2ipc.pt"
    accuracies = {"ConvNet": [np.float64(0.3), np.float64(0.31)]}
    torch.save({"data": [[images, labels], [images + 1, labels]], "accs_all_exps": accuracies}, path)
    first, second = read_sets(path, digits)
    assert (first.ipc, len(first.data)) == (2, 20)
    assert torch.equal(first.data.gather(torch.arange(20)), images)
    assert torch.equal(second.data.gather(torch.arange(20)), images + 1)
    assert torch.equal(first.data.labels, labels)


def test_nothing_is_executed(tmp_path, digits):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "evil.pt"
    torch.save({"data": [list(images_and_labels())], "extra": Evil()}, path)
    with pytest.raises(ForeignSetError, match="objects other than tensors") as error:
        read_sets(path, digits)
    assert "weights_only" not in str(error.value), "torch's advice to switch the safety off must not reach the user"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": []}, "holds no 'data' list"),
        ([1, 2], "holds no 'data' list"),
        ({"data": [[torch.zeros(10, 1, 8, 8)]]}, r"expected \[images, labels\]"),
        ({"data": [[torch.zeros(10, 3, 8, 8), torch.arange(10)]]}, "images of shape"),
        ({"data": [[torch.zeros(10, 1, 8, 8), torch.arange(9)]]}, "labels for 10 images"),
        ({"data": [[torch.zeros(10, 1, 8, 8), torch.arange(10) + 5]]}, "labels reach from 5 to 14"),
        ({"data": [[torch.full((10, 1, 8, 8), torch.nan), torch.arange(10)]]}, "not finite"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, digits, content, message):
    path = tmp_path / "set.pt"
    torch.save(content, path)
    with pytest.raises(ForeignSetError, match=message):
        read_sets(path, digits)


def write_folder(root: Path, names) -> None:
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(root / name / "a.png")


def test_folder_of_images(tmp_path, digits):
    write_folder(tmp_path / "set", [str(c) for c in range(10)])
    (only,) = read_sets(tmp_path / "set", digits)
    assert only.data.labels.tolist() == list(range(10))
    raw = only.data.gather(torch.arange(10)) * digits.std[0] + digits.mean[0]
    torch.testing.assert_close(raw[3], torch.full((1, 8, 8), 60 / 255))
    write_folder(tmp_path / "other", ["cat", "dog"])
    with pytest.raises(ValueError, match="expected 10 sub-folders"):
        read_sets(tmp_path / "other", digits)


@pytest.mark.slow
def test_own_file_scores_what_was_reported(tmp_path, capsys):
    results = tmp_path / "results"
    assert main(["--methods", "random", "--ipc", "1", "--nets", "2", "--results-dir", str(results)]) == 0
    (run,) = (results / "runs").iterdir()
    reported = json.loads((run / "result.json").read_text())["evaluations"][0]["accuracies"]
    arguments = ["--evaluate", str(run / "condensed.safetensors"), "--results-dir", str(results), "--nets", "3"]
    assert main(arguments) == 0
    (file,) = (results / "evaluated").iterdir()
    (score,) = json.loads(file.read_text())["scores"]
    assert (score["steps"], score["images"], len(score["accuracies"])) == (500, 10, 3)
    assert sum(score["accuracies"]) / 3 == pytest.approx(sum(reported) / 2, abs=0.2)
    assert "condensed.safetensors" in capsys.readouterr().out


def test_bad_files_exit_with_2(tmp_path, capsys):
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "noise.pt").write_bytes(b"not a file of torch")
    (tmp_path / "noise.txt").write_text("x")
    for name in ("noise.safetensors", "noise.pt", "noise.txt", "absent.pt"):
        assert main(["--evaluate", str(tmp_path / name), "--results-dir", str(tmp_path / "r")]) == 2
        captured = capsys.readouterr()
        assert name in captured.err
        assert "Traceback" not in captured.err
    assert not (tmp_path / "r").exists()
