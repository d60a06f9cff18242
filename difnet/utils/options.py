"""Annotations of the options of commands."""

from typing import Any

import tyro


def shown_default(text: str) -> Any:
    """Annotate an option whose default is None: --help shows `text`, which says what None stands for."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")
