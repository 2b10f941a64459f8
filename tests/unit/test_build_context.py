from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.api import BuildRequest
from runtime.build import context
from runtime.build.context import context_digest, read_ignore
from runtime.build.dockerignore import Ignore, parse_ignore
from runtime.build.sources import open_tree
from runtime.errors import InvalidSpec


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def visible(root: Path, ignore: Ignore) -> list[str]:
    tree = open_tree(str(root), ignore)
    try:
        return [item.path for item in tree.walk("") if item.path]
    finally:
        tree.close()


# ---- ignore rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*.log", "a.log", True),
        ("*.log", "sub/a.log", False),
        ("**/*.log", "sub/deep/a.log", True),
        ("**/*.log", "a.log", True),
        ("sub", "sub/deep/a", True),
        ("/sub/", "sub/a", True),
        ("./sub/../other", "other/a", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("docs/**", "docs/a/b", True),
        ("docs/**", "docs", False),
        ("**", "anything/at/all", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "keep/inner", False),
        ("!keep\n*", "keep", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-other.md", False),
        ("# a comment\n\n  a  \n", "a", True),
        ("# a", "# a", False),
        (".", "a", False),
        ("! spaced\n*\n! spaced", "spaced", False),
    ],
)
def test_paths_are_excluded_as_docker_does(patterns: str, path: str, excluded: bool) -> None:
    assert parse_ignore(patterns).excludes(path) is excluded


@pytest.mark.parametrize("pattern", ["[a", "a\\", "[-x]", "!", "[]a]"])
def test_a_malformed_pattern_names_its_line(pattern: str) -> None:
    with pytest.raises(InvalidSpec, match=r"\.dockerignore:2: "):
        parse_ignore(f"ok\n{pattern}\n")


def test_a_directory_reappears_only_with_something_that_is_brought_back(tmp_path: Path) -> None:
    make(tmp_path, {"a/b/keep.txt": "", "a/b/drop.txt": "", "a/c/drop.txt": "", "d": ""})
    assert visible(tmp_path, parse_ignore("a\n!a/b/keep*")) == ["a", "a/b", "a/b/keep.txt", "d"]
    assert visible(tmp_path, parse_ignore("*\n!a/**/none")) == []


def test_the_ignore_file_beside_the_dockerfile_wins(tmp_path: Path) -> None:
    make(tmp_path, {".dockerignore": "a", "web.Dockerfile.dockerignore": "b"})
    request = BuildRequest(context=str(tmp_path), dockerfile="web.Dockerfile")
    assert read_ignore(request).excludes("b") and not read_ignore(request).excludes("a")
    assert read_ignore(BuildRequest(context=str(tmp_path))).excludes("a")


# ---- sources ----------------------------------------------------------------------------------------------------


def matched(root: Path, pattern: str, ignore: str = "") -> list[tuple[str, str]]:
    tree = open_tree(str(root), parse_ignore(ignore))
    try:
        return [(match.name, match.path) for match in tree.match(pattern)]
    finally:
        tree.close()


def test_wildcards_match_within_components_and_in_order(tmp_path: Path) -> None:
    make(tmp_path, {"b.txt": "", "a.txt": "", ".h.txt": "", "d/x.txt": "", "e/x.txt": "", "e/y.md": ""})
    assert matched(tmp_path, "*.txt") == [(".h.txt", ".h.txt"), ("a.txt", "a.txt"), ("b.txt", "b.txt")]
    assert matched(tmp_path, "*/x.txt") == [("x.txt", "d/x.txt"), ("x.txt", "e/x.txt")]
    assert matched(tmp_path, "[^a].txt") == [("b.txt", "b.txt")]
    assert matched(tmp_path, "*.txt", "a*") == [(".h.txt", ".h.txt"), ("b.txt", "b.txt")]
    assert matched(tmp_path, "nothing*") == []


def test_a_symlink_is_followed_inside_the_context_and_never_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    root = make(tmp_path / "ctx", {"real/file": "x"})
    (root / "link").symlink_to("real")
    (root / "up").symlink_to("../outside")
    (root / "abs").symlink_to(str(outside))
    (root / "loop").symlink_to("loop")
    assert matched(root, "link/file") == [("file", "real/file")]
    assert matched(root, "../../ctx/real") == []
    for name in ("up/secret", "abs/secret", "loop"):
        assert matched(root, name) == []


# ---- the digest -------------------------------------------------------------------------------------------------


def digest(root: Path, dockerfile: str, cache: Path | None = None, **more: object) -> str:
    (root / "Dockerfile").write_text(dockerfile)
    request = BuildRequest(context=str(root), **more)  # type: ignore[arg-type]
    return context_digest(request, str(cache) if cache else None)


def test_only_what_the_dockerfile_copies_counts(tmp_path: Path) -> None:
    make(tmp_path, {"app/a.py": "1", "notes.txt": "1"})
    text = "FROM x\nCOPY app /app\n"
    before = digest(tmp_path, text)
    (tmp_path / "notes.txt").write_text("2")
    assert digest(tmp_path, text) == before
    (tmp_path / "app" / "a.py").write_text("2")
    assert digest(tmp_path, text) != before


def test_copying_all_counts_all_but_what_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1", "log/x": "1", ".dockerignore": "log\n"})
    text = "FROM x\nCOPY . /app\n"
    before = digest(tmp_path, text)
    (tmp_path / "log" / "x").write_text("2")
    assert digest(tmp_path, text) == before
    (tmp_path / "b").write_text("")
    assert digest(tmp_path, text) != before


def test_a_variable_as_source_makes_everything_count(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1", "b": "1"})
    text = "FROM x\nARG what=a\nCOPY $what /x\n"
    before = digest(tmp_path, text)
    (tmp_path / "b").write_text("2")
    assert digest(tmp_path, text) != before


def test_mode_link_target_argument_and_target_count_but_times_do_not(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1"})
    (tmp_path / "l").symlink_to("a")
    text = "FROM x AS one\nCOPY . /x\nFROM one AS two\n"
    seen = {before := digest(tmp_path, text)}
    os.utime(tmp_path / "a", (1, 1))
    assert digest(tmp_path, text) == before
    (tmp_path / "a").chmod(0o700)
    seen.add(digest(tmp_path, text))
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to("b")
    seen.add(digest(tmp_path, text))
    seen.add(digest(tmp_path, text, args={"v": "1"}))
    seen.add(digest(tmp_path, text, target="one"))
    seen.add(digest(tmp_path, text + "# more\n"))
    assert len(seen) == 6


def test_an_onbuild_copy_counts_too(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1"})
    text = "FROM x AS base\nONBUILD COPY a /a\nFROM base\n"
    before = digest(tmp_path, text)
    (tmp_path / "a").write_text("2")
    assert digest(tmp_path, text) != before


def test_remembered_digests_spare_reading_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make(tmp_path / "ctx", {"a": "1", "b": "1"}), tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(context, "_SETTLED", -1)
    text = "FROM x\nCOPY a b /x/\n"
    first = digest(root, text, cache)
    reads: list[str] = []
    original = context.hash_file
    monkeypatch.setattr(context, "hash_file", lambda item: reads.append(item.name) or original(item))
    assert digest(root, text, cache) == first
    assert reads == []
    (root / "b").write_text("2")
    assert digest(root, text, cache) != first
    assert reads == ["b"]


def test_a_known_dockerfile_is_not_parsed_again(tmp_path: Path) -> None:
    root, cache = make(tmp_path / "ctx", {"a": "1"}), tmp_path / "cache"
    cache.mkdir()
    digest(root, "FROM x\nCOPY a /x\n", cache)
    script = (
        "import sys\nfrom runtime.api import BuildRequest\nfrom runtime.build.context import context_digest\n"
        "context_digest(BuildRequest(context=sys.argv[1]), sys.argv[2])\n"
        "print([name for name in sys.modules if name in ('runtime.build.parse', 'runtime.build.stages')])"
    )
    done = subprocess.run([sys.executable, "-c", script, root, cache], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_changed_just_now_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make(tmp_path / "ctx", {"a": "1"}), tmp_path / "cache"
    cache.mkdir()
    digest(root, "FROM x\nCOPY a /x\n", cache)
    reads: list[str] = []
    original = context.hash_file
    monkeypatch.setattr(context, "hash_file", lambda item: reads.append(item.name) or original(item))
    digest(root, "FROM x\nCOPY a /x\n", cache)
    assert reads == ["a"]


def test_a_damaged_or_unwritable_cache_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make(tmp_path / "ctx", {"a": "1"}), tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(context, "_SETTLED", -1)
    text = "FROM x\nCOPY a /x\n"
    first = digest(root, text, cache)
    (file,) = cache.iterdir()
    for damage in ("{", "[]", '{"files": {"a": 3}, "sources": []}', '{"files": {"a": []}, "sources": [1, 2, 3]}'):
        file.write_text(damage)
        assert digest(root, text, cache) == first
    assert digest(root, text, tmp_path / "absent") == first
    assert not (tmp_path / "absent").exists()


def test_a_missing_dockerfile_or_context_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot read Dockerfile"):
        context_digest(BuildRequest(context=str(tmp_path)))
    with pytest.raises(InvalidSpec, match="cannot read build context"):
        context_digest(BuildRequest(context=str(tmp_path / "none"), dockerfile_inline="FROM x\n"))
