"""A picture of a conversation, for README: what ``medvlm chat`` shows on a terminal, as SVG.

    python tests/record_chat.py medvlm-workspace/demo-image.png --checkpoint medvlm-workspace/checkpoints/finetune \\
        --ask "What is shown?" --ask "Is the small lesion smooth or speckled?" --out chat.svg

The session, its words and its times are real; only the frames of the growing answer are left out.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.sources.opening import open_image
from medvlm_cli.stages.chat import NOTICE
from medvlm_cli.terminal import answer
from medvlm_cli.terminal.talk import Talk, Wishes, open_session

NO_FONT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Rich's picture without the fonts that it fetches from the network."""


def record(image, checkpoint, questions, out, width=88):
    """Hold the conversation, and write its picture."""
    answer.FRAME_SECONDS = float("inf")
    screen = Console(
        record=True, force_terminal=True, color_system="truecolor", width=width, height=36, highlight=False
    )
    opened = open_image(image)
    wishes = Wishes(str(checkpoint), ChatConfig(max_new_tokens=96), preview="half")
    session = open_session(wishes, [opened])
    talk = Talk(wishes, lambda: session, screen, screen)
    screen.print(Text(f"$ medvlm chat {image.name}", style="bold"))
    talk.say(NOTICE)
    talk.show_image(opened)
    for question in questions:
        screen.print(Text(f"> {question}", style="bold"))
        talk.answer(session.ask(question))
    title = f"medvlm chat: the tiny demo model ({session.model}) on a drawn phantom"
    out.write_text(screen.export_svg(title=title, code_format=NO_FONT, unique_id="chat"), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--ask", action="append", required=True)
    parser.add_argument("--out", type=Path, default=Path("chat.svg"))
    given = parser.parse_args()
    record(given.image, given.checkpoint, given.ask, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
