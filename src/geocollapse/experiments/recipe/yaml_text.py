"""YAML read safely: no code, no key twice, and no text that grows when it is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_VALUES = 100_000  # of a text with its aliases written out
_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as in YAML 1.2 (PyYAML follows 1.1: text)."""


class RecipeDumper(yaml.SafeDumper):
    """Safe YAML that both versions read alike, and that writes equal lists out."""

    def ignore_aliases(self, data: object) -> bool:
        """Write every list and mapping where it stands."""
        del data
        return True


RecipeLoader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
RecipeDumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, *, where: str) -> object:
    """The value of a YAML text that somebody wrote.

    Raises:
        ValueError: it is not YAML, has a key twice, or aliases that multiply; the message begins
            with ``where``.
    """
    return _parse(RecipeLoader, text, where)


def parse_stored_yaml(text: str, *, where: str) -> object:
    """The value of a YAML text that this package wrote, by the rules of YAML 1.1.

    A run may be called `35090385e703`, which is a number by the other rules.

    Raises:
        ValueError: as of `parse_yaml`.
    """
    return _parse(yaml.SafeLoader, text, where)


def _parse(kind: type[yaml.SafeLoader], text: str, where: str) -> object:
    try:
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, where)
        _check_keys(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: expected YAML, got {reason}; do correct or quote it") from None
    except RecursionError:
        raise ValueError(
            f"{where}: expected YAML of a few levels, got deeper ones; do write it flat"
        ) from None


def _check_size(root: yaml.Node, where: str) -> None:
    """Refuse aliases that lead back to themselves or multiply: a few lines can mean 10^9 values."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise ValueError(
                f"{where}: expected values, got one inside itself {_place(node)}; do remove "
                "the alias"
            )
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(size(child) for child in _children(node))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > _MOST_VALUES:
        raise ValueError(
            f"{where}: expected at most {_MOST_VALUES} values, got aliases that multiply to more; "
            "do write out what is meant"
        )


def _check_keys(root: yaml.Node, where: str) -> None:
    """Refuse a key that stands twice in one mapping: YAML would keep the last one."""
    seen: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        left += _children(node)
        if not isinstance(node, yaml.MappingNode):
            continue
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            if (key.tag, key.value) in keys:
                raise ValueError(
                    f"{where}: expected each key once, got {key.value!r} again {_place(key)}; "
                    "do remove one"
                )
            keys.add((key.tag, key.value))


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _place(node: yaml.Node) -> str:
    return f"in line {node.start_mark.line + 1}"
