"""How an image is built from a Dockerfile, in Compose's words."""

# ruff: noqa: TRY004 - pydantic turns ValueError, and only that, into a problem of the value

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from schemas.fields import Arguments, Bool, Labels, Strict, type_name


def shorten_build(value: Any) -> Any:
    """The short form is the context alone."""
    if isinstance(value, str):
        return {"context": value}
    if not isinstance(value, dict):
        raise ValueError(f"must be a directory or a mapping, not {type_name(value)}")
    return value


class BuildSpec(Strict):
    context: str = "."
    dockerfile: str | None = None
    dockerfile_inline: str | None = None
    args: Arguments = Field(default_factory=dict)
    target: str = ""
    labels: Labels = Field(default_factory=dict)
    no_cache: Bool = False
    network: Literal["default", "none", "host"] = "default"

    later: ClassVar = {
        **dict.fromkeys(
            [
                "additional_contexts",
                "cache_from",
                "cache_to",
                "entitlements",
                "extra_hosts",
                "no_cache_filter",
                "platforms",
                "privileged",
                "provenance",
                "pull",
                "sbom",
                "secrets",
                "shm_size",
                "ssh",
                "tags",
                "ulimits",
            ],
            "",
        ),
        "isolation": "it exists on Windows only",
    }

    @model_validator(mode="after")
    def _one_dockerfile(self) -> BuildSpec:
        if self.dockerfile is not None and self.dockerfile_inline is not None:
            raise ValueError("dockerfile and dockerfile_inline exclude each other")
        if "://" in self.context or self.context.startswith(("git@", "github.com/")):
            raise ValueError(f'build context "{self.context}" from elsewhere is not supported yet: name a directory')
        return self
