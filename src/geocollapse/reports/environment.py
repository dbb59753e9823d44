"""The templates of the pages, with the filters that write numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocollapse.reports.times import median_history_share, pause_note
from geocollapse.reports.wording import (
    SYMBOLS,
    effect_size,
    effect_text,
    interval,
    number,
    p_value,
    percent,
    signed,
    words,
)

if TYPE_CHECKING:
    import jinja2


def template(name: str) -> jinja2.Template:
    """The template of a page; an unknown variable in it is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("geocollapse.reports", "templates"),
        autoescape=jinja2.select_autoescape(["html.jinja", "css", "js"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "effect": effect_text,
        "size": effect_size,
        "interval": interval,
        "p": p_value,
        "percent": percent,
        "signed": signed,
        "words": words,
        "median_history_share": median_history_share,
        "pause_note": pause_note,
    }
    environment.globals |= {"symbols": SYMBOLS}
    return environment.get_template(name)
