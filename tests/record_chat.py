"""A picture of a conversation, for README: what ``medvlm chat`` shows on a terminal, as SVG.

    python tests/record_chat.py medvlm-workspace/demo-image.png --checkpoint medvlm-workspace/checkpoints/finetune \\
        --type "What is shown?" --type "Is the small lesion smooth or speckled?" --type "On which side is it?" \\
        --type /tiles --type /stats --out tests/recorded/chat.svg

The session, its words and its times are real; only the frames of the growing answer are left out.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.sources.opening import open_image
from medvlm_cli.stages.chat import NOTICE
from medvlm_cli.terminal import answer, commands
from medvlm_cli.terminal.talk import Talk, Wishes, open_session

BARE = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Rich's picture without the fonts that it fetches from the network, and without addresses."""
_BEHIND = re.compile(r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="24.65" shape[^>]*/>')
_HALF = re.compile(r'<text class="([\w-]+)" x="([\d.]+)" y="([\d.]+)"[^>]*>(\u2580+)</text>')
HEIGHT = 26
"""Rows of the terminal: what a preview is fitted to."""


def record(image, checkpoint, lines, out, width=80):
    """Hold the conversation, and write its picture."""
    answer.FRAME_SECONDS = float("inf")
    screen = Console(record=True, force_terminal=True, color_system="256", width=width, height=HEIGHT, highlight=False)
    opened = open_image(image)
    wishes = Wishes(str(checkpoint), ChatConfig(), preview="half")
    session = open_session(wishes, [opened])
    talk = Talk(wishes, lambda: session, screen, screen)
    screen.print(Text(f"$ medvlm chat {image.name}", style="bold"))
    talk.say(NOTICE)
    talk.show_image(opened)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where /tiles writes
        for line in lines:
            screen.print(Text(f"> {line}", style="bold"))
            if line.startswith("/"):
                commands.run(talk, line)
            else:
                talk.answer(session.ask(line))
    title = "medvlm chat: the tiny demo model on a drawn phantom; it knows nothing of medicine"
    out.write_text(lean(screen.export_svg(title=title, code_format=BARE, unique_id="chat")), encoding="utf-8")


def lean(svg):
    """The same picture in less than half of the bytes, and half blocks as shapes: fonts draw them with seams."""
    svg = _BEHIND.sub(r'<path fill="\1" d="M\2 \3h\4v24.7h-\4"/>', svg)
    svg = _HALF.sub(_upper, svg)
    svg = re.sub(r'<clipPath id="chat-line-.*?</clipPath>| clip-path="url\(#chat-line-\d+\)"', "", svg, flags=re.DOTALL)
    svg = svg.replace("</style>", "path { shape-rendering: crispEdges }</style>", 1)
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip()) + "\n"


def _upper(found):
    """Half blocks as the upper halves of their cells, which reach from 18.5 above the line of the words."""
    name, left, baseline, blocks = found.groups()
    width = round(12.2 * len(blocks), 1)
    return f'<path class="{name}" d="M{left} {float(baseline) - 18.5:.1f}h{width}v12.3h-{width}"/>'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--type", action="append", required=True, help="a question or a command; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("chat.svg"))
    given = parser.parse_args()
    image, checkpoint, out = (path.resolve() for path in (given.image, given.checkpoint, given.out))
    record(image, checkpoint, given.type, out)
    print(given.out)


if __name__ == "__main__":
    main()
