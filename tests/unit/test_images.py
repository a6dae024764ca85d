"""The images that the page offers."""

from __future__ import annotations

from typing import Any

from clincus_features.images import list_images


class Incus:
    """An Incus that has these images."""

    def __init__(self, *images: dict[str, Any]) -> None:
        self.images = images

    def query(self, path: str, *, timeout: float) -> object:
        assert path == "/1.0/images?recursion=1"
        return self.images


def image(*aliases: tuple[str, str], description: str = "") -> dict[str, Any]:
    return {
        "aliases": [{"name": name, "description": text} for name, text in aliases],
        "properties": {"description": description} if description else {},
        "size": 7,
        "created_at": "2026-01-01T00:00:00Z",
    }


def test_each_alias_is_an_entry_and_an_image_without_one_is_none():
    incus = Incus(image(("b", "of its own"), ("a", ""), description="of the image"), image(), image(("c", "")))
    found = list_images(incus)
    described = [("a", "of the image"), ("b", "of its own"), ("c", "")]
    assert [(entry["alias"], entry["description"]) for entry in found] == described
    assert {(entry["size"], entry["created_at"]) for entry in found} == {(7, "2026-01-01T00:00:00Z")}
