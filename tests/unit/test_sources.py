"""Which files a source is made of, how they are merged, and what makes one unreadable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.model import InputError, Key
from reconciler.source.files import fetch
from tests.support.manifests import engine, load, write

ONE = "services: {a: {image: img}}\n"


def files(place: Path, *paths: str) -> list[str]:
    source = fetch(paths or [str(place)], None, {})
    return [os.path.relpath(os.path.abspath(file.path), place) for file in source.files]


def refusal(*paths: str, stdin: str | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        fetch(paths, stdin, {})
    return [str(problem) for problem in caught.value.problems]


def test_directories_are_read_recursively_without_hidden_ones(tmp_path: Path) -> None:
    write(tmp_path, b=ONE, a_dot_yml=ONE, sub__c=ONE, _dot_git__x_dot_yaml=ONE, _dot_hid_dot_yaml=ONE, readme_dot_md="")
    assert files(tmp_path) == ["a.yml", "b.yaml", "sub/c.yaml"]


def test_build_contexts_are_left_out_wherever_they_are_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        app="apiVersion: holdfast/v1\nkind: Image\nmetadata: {name: i}\nspec: {build: {context: api}}\n",
        api__chart="{{ not yaml",
        deep__compose="services: {a: {build: ../web}, b: {build: .}}\nx-holdfast: {images: {i: {build: ../$W}}}\n",
        web__compose="services: {a: {build: ../keep}}\n",
        keep__compose=ONE,
        var__x="[",
        _dot_env="W=var\n",
    )
    source = fetch([str(tmp_path)], None, {})
    shown = [os.path.relpath(os.path.abspath(file.path), tmp_path) for file in source.files]
    assert shown == ["app.yaml", "deep/compose.yaml", "keep/compose.yaml"]
    assert {os.path.relpath(path, tmp_path) for path in source.excluded} == {"api", "web", "var"}


def test_an_override_is_merged_over_its_base(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        compose="""
        services:
          web:
            image: img
            command: a b
            environment: [A=1, B=2]
            ports: ["80:80", "81:81"]
            cap_add: [KILL]
            volumes: [/x, "v:/y"]
            labels: {gone: x, kept: y}
            tmpfs: /t
        volumes: {v: , w: }
        """,
        compose_dot_override_dot_yaml="""
        services:
          web:
            command: c
            environment: {B: 3, C: 4}
            ports: ["80:80", {target: 82}]
            cap_add: [CHOWN]
            volumes: ["w:/y"]
            labels: {gone: !reset null}
            tmpfs: !override [/u]
          more: {image: img}
        """,
    )
    desired = load(tmp_path / "s")
    spec = desired.resources[Key("service", "web")].spec
    assert spec["command"] == ["c"]
    assert spec["env"] == {"A": "1", "B": "3", "C": "4"}
    assert [port["container_port"] for port in spec["ports"]] == [80, 81, 82]
    assert spec["cap_add"] == ["CHOWN", "KILL"]
    assert [(m["kind"], m["source"], m["target"]) for m in spec["mounts"]] == [
        ("tmpfs", "", "/u"), ("volume", "", "/x"), ("volume", "s_w", "/y"),
    ]  # fmt: skip
    assert spec["labels"] == {"kept": "y"}
    assert Key("service", "more") in desired.resources


def test_native_documents_are_overridden_by_kind_and_name(tmp_path: Path) -> None:
    document = "apiVersion: holdfast/v1\nkind: Service\nmetadata: {name: a}\nspec: "
    write(tmp_path / "s", x=document + "{image: img, user: u}", x_dot_override_dot_yaml=document + "{user: v}")
    assert load(tmp_path / "s").resources[Key("service", "a")].spec["user"] == "v"


def test_files_named_one_by_one_are_merged_in_order(tmp_path: Path) -> None:
    write(tmp_path, a="services: {w: {image: img, user: a, init: true}}\n", sub__b="services: {w: {user: b}}\n")
    from reconciler.source.desired import load_desired

    desired = load_desired([str(tmp_path / "a.yaml"), str(tmp_path / "sub" / "b.yaml")], None, {}, engine())
    spec = desired.resources[Key("service", "w")].spec
    assert (spec["user"], spec["init"]) == ("b", True)


def test_the_same_name_in_two_files_of_a_directory_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "s", a=ONE, b=ONE)
    with pytest.raises(InputError, match=r'b.yaml:1:12: service "a" is declared twice \(first at .*a.yaml:1:12\)'):
        load(tmp_path / "s")


def test_problems_in_an_override_are_marked_there(tmp_path: Path) -> None:
    write(tmp_path / "s", a=ONE, a_dot_override_dot_yaml="services:\n  a:\n    usr: x\n")
    with pytest.raises(InputError, match=r'a.override.yaml:3:5: service "a": unknown attribute "usr"'):
        load(tmp_path / "s")


def test_native_and_compose_documents_belong_to_one_stack(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        images="apiVersion: holdfast/v1\nkind: Image\nmetadata: {name: base}\nspec: {bootstrap: {suite: bookworm}}\n",
        compose="services: {a: {image: base}}\n",
    )
    assert load(tmp_path / "s").resources[Key("service", "a")].spec["image"] == "base"


def test_the_callers_variables_go_before_dotenv(tmp_path: Path) -> None:
    write(tmp_path / "s", c="services: {a: {image: img, user: $U, hostname: $H}}\n", _dot_env="U=file\nH=file\n")
    spec = load(tmp_path / "s", {"U": "caller"}).resources[Key("service", "a")].spec
    assert (spec["user"], spec["hostname"]) == ("caller", "file")


def test_a_file_deeper_down_sees_its_own_dotenv_first(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        deep__c="services: {a: {image: img, user: $U, hostname: $H}}\n",
        deep___dot_env="U=own\n",
        _dot_env="U=top\nH=top\n",
    )
    spec = load(tmp_path / "s").resources[Key("service", "a")].spec
    assert (spec["user"], spec["hostname"]) == ("own", "top")


def test_paths_are_relative_to_the_file_that_holds_them(tmp_path: Path) -> None:
    document = "apiVersion: holdfast/v1\nkind: Service\nmetadata: {name: n}\nspec: {image: img, volumes: ['./d:/d']}\n"
    write(
        tmp_path / "s",
        one__c="services: {c: {image: img, volumes: ['./d:/d']}}\n",
        two__n=document,
        one__d__x_dot_t="",
        two__d__x_dot_t="",
    )
    desired = load(tmp_path / "s")
    assert desired.resources[Key("service", "c")].spec["mounts"][0]["source"] == f"{tmp_path}/s/one/d"
    assert desired.resources[Key("service", "n")].spec["mounts"][0]["source"] == f"{tmp_path}/s/two/d"


def test_the_revision_follows_content_and_not_place(tmp_path: Path) -> None:
    write(tmp_path / "one", a=ONE, _dot_env="A=1\n")
    write(tmp_path / "two", a=ONE, _dot_env="A=1\n")
    first, second = fetch([str(tmp_path / "one")], None, {}), fetch([str(tmp_path / "two")], None, {})
    assert first.revision == second.revision
    write(tmp_path / "two", _dot_env="A=2\n")
    assert fetch([str(tmp_path / "two")], None, {}).revision != first.revision


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    assert "no manifest here" in refusal(str(tmp_path))[0]
    write(tmp_path, a="", b=ONE)
    assert refusal(str(tmp_path)) == [f"{tmp_path}/a.yaml:1:1: the file is empty"]
    assert refusal("-", stdin=" \n") == ["<stdin>:1:1: standard input is empty"]
    assert refusal("-") == ["<stdin>:1:1: nothing to read on standard input"]


def test_a_file_of_comments_alone_is_no_error_beside_others(tmp_path: Path) -> None:
    write(tmp_path / "s", a="# later\n", b=ONE)
    assert Key("service", "a") in load(tmp_path / "s").resources


def test_unreadable_sources_are_errors(tmp_path: Path) -> None:
    write(tmp_path, a=ONE, o_dot_override_dot_yaml=ONE)
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "bytes.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "dir.yaml").mkdir()
    (tmp_path / ".env").write_text("A='x")
    assert refusal(str(tmp_path)) == [
        f"{tmp_path}/.env:1:3: the quote that begins the value of A is not closed",
        f"{tmp_path}/bytes.yaml:2:4: is not UTF-8 text",
        f"{tmp_path}/gone.yaml:1:1: cannot read the file: no such file or directory",
        f"{tmp_path}/o.override.yaml:1:1: there is no o.yaml that it overrides",
    ]
    assert refusal("/none/such.yaml") == ["/none/such.yaml: no such file or directory"]


def test_utf16_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.yaml").write_bytes(ONE.encode("utf-16"))
    (tmp_path / "s" / "b.yaml").write_bytes(b"\xef\xbb\xbfvolumes: {v: }\n")
    assert {str(key) for key in load(tmp_path / "s").resources} == {"service/a", "network/default", "volume/v"}


def test_a_fifo_named_by_path_is_read_once(tmp_path: Path) -> None:
    read, write_end = os.pipe()
    os.write(write_end, ONE.encode())
    os.close(write_end)
    try:
        assert fetch([f"/dev/fd/{read}"], None, {}).files[0].text == ONE
    finally:
        os.close(read)


def test_the_projects_name_is_a_variable(tmp_path: Path) -> None:
    write(tmp_path / "shop", c="services: {a: {image: img, hostname: '${COMPOSE_PROJECT_NAME}-a'}}\n")
    assert load(tmp_path / "shop").resources[Key("service", "a")].spec["hostname"] == "shop-a"
    write(tmp_path / "shop", c="name: n\nservices: {a: {image: img, hostname: '${COMPOSE_PROJECT_NAME}-a'}}\n")
    assert load(tmp_path / "shop").resources[Key("service", "a")].spec["hostname"] == "n-a"
