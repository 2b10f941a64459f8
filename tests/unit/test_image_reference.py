"""Image names: one short form, docker's grammar, and what is refused."""

import pytest

from runtime.errors import InvalidSpec
from runtime.image.reference import may_be_id, parse, short_name

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("nginx", "nginx"),
        ("nginx:latest", "nginx"),
        ("docker.io/library/nginx", "nginx"),
        ("index.docker.io/library/nginx:1.27", "nginx:1.27"),
        ("shop/web", "shop/web"),
        ("docker.io/shop/web:2", "shop/web:2"),
        ("localhost/web", "localhost/web"),
        ("localhost:5000/web:latest", "localhost:5000/web"),
        ("ghcr.io/a/b__c.d-e:v1", "ghcr.io/a/b__c.d-e:v1"),
        (f"nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"nginx:1@{DIGEST}"),
        ("[::1]:5000/web", "[::1]:5000/web"),
        ("docker.io/library/a.b/c", "library/a.b/c"),
    ],
)
def test_every_spelling_of_a_name_has_one_short_form(text: str, short: str) -> None:
    assert short_name(text) == short
    assert short_name(short) == short


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Web",
        "a//b",
        "../x",
        "a:",
        "a:b:c",
        "a b",
        "/abs",
        "-x",
        "a/..",
        "a@sha256:12",
        "x" * 300,
        "a\n",
        "a+b",
        ".tmp-x",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        parse(text)


def test_only_hex_of_some_length_may_be_an_id() -> None:
    assert may_be_id("abcd") and may_be_id(DIGEST) and may_be_id("sha256:abcd12")
    assert not may_be_id("abc") and not may_be_id("nginx") and not may_be_id("a" * 65)
