"""The one cache: shared by purpose, damage named and mended, and a stale file never misread."""

import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from benchmark.system import cache
from benchmark.system.errors import Stopped
from benchmark.system.files import sealed_texts

PURPOSE = ["squares", 3]


def make():
    return {"squares": torch.arange(3.0) ** 2, "odd": torch.ones(2, 2, dtype=torch.uint8).t()}


def ask(*places, purpose=PURPOSE, name="sub/squares", made=make):
    return cache.get_or_make(places, name, purpose, made)


def same(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


def test_made_once_and_found_again(tmp_path, recwarn):
    assert same(ask(tmp_path), make())
    assert same(ask(tmp_path, made=pytest.fail), make())
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["squares.safetensors"]
    assert not recwarn.list


def test_without_a_folder_it_is_made_each_time():
    assert same(ask(), make())


def test_another_purpose_is_another_file_by_name(tmp_path):
    names = {cache.name_for("a/b", purpose) for purpose in (PURPOSE, ["squares", 4], "squares")}
    assert len(names) == 3
    assert all(name.startswith("a-b-") for name in names)


def test_a_file_for_something_else_is_never_misread(tmp_path):
    ask(tmp_path)
    with pytest.warns(UserWarning, match="made for something else"):
        found = ask(tmp_path, purpose=["cubes"], made=lambda: {"cubes": torch.ones(1)})
    assert list(found) == ["cubes"]
    assert list(ask(tmp_path, purpose=["cubes"], made=pytest.fail)) == ["cubes"]


def test_a_file_of_an_older_format_is_made_again(tmp_path, monkeypatch):
    ask(tmp_path)
    name = cache.name_for("x", PURPOSE)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert cache.name_for("x", PURPOSE) != name
    with pytest.warns(UserWarning, match="made for something else"):
        ask(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "unnamed", "folder"])
def test_damage_is_named_and_made_again(tmp_path, damage):
    ask(tmp_path)
    path = tmp_path / "sub" / "squares.safetensors"
    content = path.read_bytes()
    if damage == "unnamed":
        save_file(make() | {"odd": torch.ones(1)}, path, sealed_texts({}, {}))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"truncated": content[:-3], "flipped": flipped, "empty": b"", "text": b"x" * 99}[damage])
    with pytest.warns(UserWarning, match=f"{path} is damaged|cannot keep"):
        assert same(ask(tmp_path), make())
    if damage != "folder":
        assert same(ask(tmp_path, made=pytest.fail), make())


def test_the_first_folder_that_takes_it_keeps_it(tmp_path, recwarn):
    (tmp_path / "file").write_text("no folder")
    assert same(ask(tmp_path / "file", tmp_path / "user"), make())
    assert same(ask(tmp_path / "file", tmp_path / "user", made=pytest.fail), make())
    assert not recwarn.list


def test_that_nobody_takes_it_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="cannot keep sub/squares"):
        assert same(ask(tmp_path / "file"), make())


def test_who_comes_second_waits_for_the_first(tmp_path):
    made, found = [], []

    def slow():
        made.append(1)
        time.sleep(0.5)
        return make()

    threads = [threading.Thread(target=lambda: found.append(ask(tmp_path, made=slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert same(*found)


def test_a_stop_is_heeded_while_waiting(tmp_path):
    def inner():
        with pytest.raises(Stopped):
            cache.get_or_make((tmp_path,), "it", PURPOSE, pytest.fail, should_stop=lambda: True)
        return make()

    cache.get_or_make((tmp_path,), "it", PURPOSE, inner)
