"""Draws a terminal session as docs/images/demo.svg: session.py PROGRAM runs `PROGRAM demo --once` and shows two beats.

tests/docs.rs holds the picture equal to what the program prints.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "images/demo.svg"
STEPS = ("2. ", "4. ")
LINE, LEFT, TOP = 19, 20, 56
COLOURS = {"title": "#8be9fd", "denied": "#ff8a80", "allowed": "#a5d6a7", "text": "#e0e0e0", "prompt": "#f4a259"}


def main(program: str) -> None:
    command = [program, "demo", "--once"]
    environment = os.environ | {"COLUMNS": "80"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    steps = [step for step in output.split("\n\n") if step.startswith(STEPS)]
    lines = [("prompt", "$ nicplug demo --once")]
    for step in steps:
        colour = "title"
        for line in step.rstrip().splitlines():
            if "is invalid" in line:
                colour = "denied"
            elif re.search(r"^ +patch: |(configured|annotated)$", line):
                colour = "allowed"
            lines.append((colour, line))
            if colour == "title":
                colour = "text"
        lines.append(("text", ""))
    lines.append(("text", "…"))
    width, height = 2 * LEFT + 80 * 9, TOP + LINE * len(lines)
    rows = "".join(
        f'<text x="{LEFT}" y="{TOP + LINE * row}" fill="{COLOURS[colour]}" xml:space="preserve">'
        f"{html.escape(text, quote=False)}</text>\n"
        for row, (colour, text) in enumerate(lines)
        if text
    )
    buttons = enumerate(("#ff5f57", "#febc2e", "#28c840"))
    dots = "".join(f'<circle cx="{24 + 20 * place}" cy="20" r="6" fill="{colour}"/>' for place, colour in buttons)
    PICTURE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        'aria-label="nicplug demo denies a NIC and adds another by an annotation" font-family="monospace" font-size="15">\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="#1e1e2e"/>\n{dots}\n{rows}</svg>\n'
    )


if __name__ == "__main__":
    main(sys.argv[1])
