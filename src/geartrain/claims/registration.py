"""Preregistration: protocol, rule and analysis are written down, with their fingerprint, before any data exist.

The fingerprint is over the syntax of the claim's file and of what it shares with other claims, of the frame's rules and
intervals, and over the list of settings. Docstrings, comments, layout, figures and prose do not count: what decides
does. A record whose fingerprint is not today's gives no verdict.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from geartrain.claims import effect, intervals, rules

if TYPE_CHECKING:
    from geartrain.claims._base import Claim

PROSE = ("title", "statement", "source", "ledger", "minutes", "changed", "doubts", "draw")
"""What of a claim's class may change without a new registration: words for people, and the figure."""
_FRAME = (effect, intervals, rules)
_OWN = "geartrain.claims."


def fingerprint(claim: Claim, scale: str) -> str:
    """Fingerprint of everything that decides, at one scale."""
    text = "\n".join(
        [
            *(_syntax(module.__name__) for module in (*_FRAME, *_modules(type(claim).__module__))),
            str(claim.version),
        ]
    )
    text += json.dumps(claim.cells(scale), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def registration(claim: Claim, scale: str, seeds: Sequence[int], created: str) -> dict[str, Any]:
    """What is written down beforehand."""
    return {
        "claim": claim.name,
        "version": claim.version,
        "fingerprint": fingerprint(claim, scale),
        "registered": created,
        "scale": scale,
        "seeds": list(seeds),
        "parts": {
            name: {"asks": part.asks, "rule": part.rule.sentence} for name, part in claim.parts.items()
        },
        "scope": claim.scope,
        "cells": claim.cells(scale),
    }


def _modules(name: str) -> list[Any]:
    """The claim's module and the modules of claims that it imports, and so on."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = importlib.import_module(path)
        waiting += [
            p for p in _imports(path) if p.startswith(_OWN) and "._" in p and not p.endswith("._base")
        ]
    return [found[p] for p in sorted(found)]


def _imports(path: str) -> Iterator[str]:
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full.startswith(_OWN) and alias.name.startswith("_") and importlib.util.find_spec(full):
                    yield full
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _parsed(path: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(path)))


def _syntax(path: str) -> str:
    tree = _parsed(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]
        node.body = [part for part in body if not _is_prose(node, part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_prose(parent: ast.AST, node: ast.AST) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # the docstring of an attribute
    if not isinstance(parent, (ast.ClassDef, ast.Module)):
        return False
    if isinstance(node, ast.FunctionDef):
        return node.name == "draw" or node.name.startswith("_draw")
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return any(isinstance(t, ast.Name) and t.id in PROSE for t in targets)
