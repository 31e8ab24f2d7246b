# SPDX-License-Identifier: GPL-2.0
"""Draws the text of standard input as a terminal; writes SVG to standard output."""

import sys
from html import escape

FONT_SIZE = 13
CHARACTER = 7.8
LINE = 18
MARGIN = 16
LEAST_COLUMNS = 80
PROMPT = "# "
STYLE = (
    "rect{fill:#1d2129}"
    f"text{{font:{FONT_SIZE}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "fill:#d5d9e0;white-space:pre}"
    ".command{fill:#8fd18a}"
)


def draw(lines: list[str]) -> str:
    """Draws the picture; lines with the prompt are commands and have a colour of their own."""
    columns = max([LEAST_COLUMNS, *map(len, lines)])
    width = round(columns * CHARACTER) + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN
    texts = [_text(line, MARGIN + number * LINE + FONT_SIZE) for number, line in enumerate(lines)]
    return "\n".join(
        [
            "<!-- SPDX-License-Identifier: GPL-2.0 -->",
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" rx="8"/>',
            *filter(None, texts),
            "</svg>",
        ]
    )


def _text(line: str, y: int) -> str:
    """Draws a line; each character is as wide as the grid, with any font."""
    if not line.strip():
        return ""
    kind = ' class="command"' if line.startswith(PROMPT) else ""
    length = f'textLength="{len(line) * CHARACTER:.1f}"'
    text = escape(line, quote=False)
    return f'<text x="{MARGIN}" y="{y}" {length}{kind} xml:space="preserve">{text}</text>'


if __name__ == "__main__":
    print(draw(sys.stdin.read().rstrip("\n").split("\n")))
