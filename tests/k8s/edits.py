"""Copies of rendered manifests with one thing changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from deploy.check.manifests import Manifests, name_of

Objects = list[dict[str, Any]]
Edit = Callable[[Objects], None]


def edited(manifests: Manifests, *edits: Edit) -> Manifests:
    objects: Objects = copy.deepcopy([dict(each) for each in manifests.objects])
    for edit in edits:
        edit(objects)
    return Manifests(manifests.name, objects)


def find(objects: Objects, name: str) -> dict[str, Any]:
    """``Service`` is the first of its kind; ``ConfigMap/sgl-embed-configs`` may go on, since its name ends in a hash."""
    kind, _, beginning = name.partition("/")
    return next(each for each in objects if each["kind"] == kind and name_of(each).startswith(beginning))


def put(name: str, path: str, value: object) -> Edit:
    """``path`` is the steps with spaces between, since labels have dots and slashes; ``-`` is behind a list's end."""

    def edit(objects: Objects) -> None:
        parent, last = _walk(objects, name, path)
        if last == "-":
            parent.append(value)
        else:
            parent[_step(parent, last)] = value

    return edit


def drop(name: str, path: str) -> Edit:
    def edit(objects: Objects) -> None:
        parent, last = _walk(objects, name, path)
        del parent[_step(parent, last)]

    return edit


def replace(name: str, path: str, old: str, new: str) -> Edit:
    """Part of a text."""

    def edit(objects: Objects) -> None:
        parent, last = _walk(objects, name, path)
        assert old in parent[_step(parent, last)]
        parent[_step(parent, last)] = parent[_step(parent, last)].replace(old, new)

    return edit


def argument(old: str, new: str, name: str = "Deployment/sgl-embed") -> Edit:
    """Of the server: the one that begins with ``old`` becomes ``new``."""

    def edit(objects: Objects) -> None:
        args = find(objects, name)["spec"]["template"]["spec"]["containers"][0]["args"]
        (index,) = (number for number, word in enumerate(args) if word.startswith(old))
        args[index] = new

    return edit


def more_arguments(*words: str) -> Edit:
    def edit(objects: Objects) -> None:
        find(objects, "Deployment/sgl-embed")["spec"]["template"]["spec"]["containers"][0]["args"] += words

    return edit


def remove(name: str) -> Edit:
    return lambda objects: objects.remove(find(objects, name))


def add(found: dict[str, Any]) -> Edit:
    return lambda objects: objects.append(found)


def duplicate(name: str, called: str, *edits: Edit) -> Edit:
    """A second object like the first, with the edits made to that one alone."""

    def edit(objects: Objects) -> None:
        second = copy.deepcopy(find(objects, name))
        second["metadata"]["name"] = called
        for change in edits:
            change([second])
        objects.append(second)

    return edit


def _walk(objects: Objects, name: str, path: str) -> tuple[Any, str]:
    *steps, last = path.split(" ")
    parent: Any = find(objects, name)
    for step in steps:
        parent = parent.setdefault(step, {}) if isinstance(parent, dict) else parent[int(step)]
    return parent, last


def _step(parent: object, step: str) -> int | str:
    return int(step) if isinstance(parent, list) else step
