"""The commands of a conversation: what each is called, what it takes and what it does."""

import dataclasses
import difflib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_cli.core.config import WINDOWS
from medvlm_cli.core.errors import ConfigError, ResourceError
from medvlm_cli.sources.opening import FRAMES, View
from medvlm_cli.terminal.paths import places
from medvlm_cli.terminal.talk import Talk, duration, image_line

SETTINGS = ("temperature", "max_new_tokens", "seed")


class QuitError(Exception):
    """The user wants to leave."""


class EditError(Exception):
    """The user wants a question back in the line."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


@dataclass(frozen=True)
class Command:
    """One command; ``words`` are what its argument may be completed to, ``paths`` whether a path may stand there."""

    argument: str
    does: str
    run: Callable[[Talk, str], None]
    words: tuple[str, ...] = ()
    paths: bool = False


def run(talk: Talk, line: str) -> None:
    """Do what a line that begins with ``/`` says.

    Raises:
        ConfigError: there is no such command, or its argument is wrong.
        MedVLMError: what the command meets.
        QuitError: it ends the conversation.
        EditError: it asks for a question to change.
    """
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise ConfigError(f"no command {name}", f"did you mean {near[0]}?" if near else "/help lists them")
    COMMANDS[name].run(talk, argument.strip())


def attach(talk: Talk, wanted: Sequence[str]) -> None:
    """Add images; the next question is about them too."""
    for place in wanted:
        image = talk.open(place)
        talk.session.add(image)
        talk.show_image(image)
    talk.hints()


def _image(talk: Talk, argument: str) -> None:
    if not argument:
        raise ConfigError("/image needs a path", "for example /image scan.png")
    attach(talk, places(argument))


def _list_images(talk: Talk, argument: str) -> None:
    images = talk.session.images
    for number, image in enumerate(images, 1):
        talk.tell(f"{number}  {image_line(image, max(talk.session.scales))}")
    if not images:
        talk.tell("no image: /image PATH adds one")


def _drop(talk: Talk, argument: str) -> None:
    number = _number(talk, argument)
    talk.say(f"dropped {talk.session.drop(number).name}")
    talk.hints()


def _window(talk: Talk, argument: str) -> None:
    wanted, number = _with_number(talk, argument, "/window", f"a name ({', '.join(WINDOWS)}) or center,width")
    image = talk.session.images[number - 1]
    _replace(talk, number, dataclasses.replace(image.view, window=wanted))


def _slice(talk: Talk, argument: str) -> None:
    wanted, number = _with_number(talk, argument, "/slice", "first, middle, last, +1, -1 or a number from 0")
    image = talk.session.images[number - 1]
    if image.frame is None or image.frames < 2:
        raise ConfigError(f"{image.name} has no slices", "they are of volumes and series of frames")
    if wanted[0] in "+-" and wanted[1:].isdecimal():
        place = image.frame + int(wanted)
        if not 0 <= place < image.frames:
            raise ConfigError(f"there is no slice {place}", f"{image.name} has 0 to {image.frames - 1}")
        wanted = str(place)
    _replace(talk, number, dataclasses.replace(image.view, frame=wanted))


def _replace(talk: Talk, number: int, view: View) -> None:
    old = talk.session.images[number - 1]
    if not old.path:
        raise ConfigError(f"{old.name} was stored as it was seen", "add the file itself: /image PATH")
    image = talk.open(old.path, view)
    talk.session.replace(number, image)
    talk.show_image(image, added=False)
    talk.hints()


def _tiles(talk: Talk, argument: str) -> None:
    from medvlm_cli.core.tiles import norms, tiles_picture

    number = _number(talk, argument)
    session = talk.session
    image, (_, fit) = session.images[number - 1], session.side_and_fit
    lengths = norms(session.features(number), len(session.scales))
    picture = tiles_picture(image.data, image.name, session.scales, fit, lengths)  # type: ignore[arg-type]
    file = Path(f"tiles-{image.sha256[:12]}.png")  # a name that says nothing of a patient, and is of this image alone
    written = io.BytesIO()
    picture.save(written, "PNG")
    talk.picture(written.getvalue(), image.name, talk.err.width)
    try:
        file.write_bytes(written.getvalue())
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written here ({error.strerror})", "start in a folder of yours"
        ) from error
    talk.tell(f"{image.name} as the model sees it, scale by scale, and where its features are long: {file}")


def _reset(talk: Talk, argument: str) -> None:
    talk.session.reset()
    talk.say("started over; the images stay")


def _retry(talk: Talk, argument: str) -> None:
    talk.answer(talk.session.retry())


def _edit(talk: Talk, argument: str) -> None:
    turns = talk.session.turns
    if not turns:
        raise ConfigError("nothing was asked yet", "ask a question first")
    raise EditError(turns[-2]["text"])


def _system(talk: Talk, argument: str) -> None:
    if argument:
        talk.session.system = "" if argument == "none" else argument
        talk.say("the next answer is given under it" if talk.session.system else "no system prompt from here on")
    else:
        talk.tell(talk.session.system or "no system prompt: /system TEXT sets one, /system none takes it away")


def _set(talk: Talk, argument: str) -> None:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    if name:
        if not value.strip():
            raise ConfigError(f"/set {name} needs a value", "for example /set temperature 0.7")
        talk.session.set(name, value.strip())
    for known, now in talk.session.settings().items():
        if not name or known == name:
            talk.tell(f"{known} {now}")


def _save(talk: Talk, argument: str) -> None:
    folder = talk.session.save(Path(places(argument)[0]) if argument else None)
    talk.tell(f"saved in {folder}")
    talk.hints()


def _load(talk: Talk, argument: str) -> None:
    if not argument:
        raise ConfigError("/load needs a folder", "one that /save made")
    talk.session.load(Path(places(argument)[0]))
    talk.hints()
    recall(talk)


def recall(talk: Talk) -> None:
    """Show a conversation as it was so far, on stderr: answers on stdout are new ones."""
    _list_images(talk, "")
    for turn in talk.session.turns:
        talk.say(("> " if turn["role"] == "user" else "") + turn["text"], "dim")


def _stats(talk: Talk, argument: str) -> None:
    stats = talk.session.stats()
    lines = {"model": stats["model"], "device": stats["device"]}
    lines |= {"images": f"{stats['images']}", "questions": f"{stats['questions']}"}
    if "tokens_in" in stats:
        lines["tokens in"] = f"{stats['tokens_in']:,}, of them {stats['tokens_known']:,} read before"
        lines["tokens out"] = f"{stats['tokens_out']:,}"
        rate = stats["tokens_per_second"]
        lines["first token"] = f"after {duration(stats['ttft_s'])}"
        lines["all of it"] = f"after {duration(stats['seconds'])}" + (f", {rate:,.1f} tokens/s" if rate else "")
    lines["room left"] = f"{stats['context_left']:,} of {stats['context']:,} tokens"
    wide = max(map(len, lines))
    for name, value in lines.items():
        talk.tell(f"{name.ljust(wide)}  {value}")


def _help(talk: Talk, argument: str) -> None:
    wide = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        talk.tell(f"{f'{name} {command.argument}'.ljust(wide)}  {command.does}")
    talk.tell('Alt-Enter begins a new line, """ a text of several; Tab completes; Ctrl-C stops an answer; Ctrl-D ends.')


def _quit(talk: Talk, argument: str) -> None:
    raise QuitError


def _number(talk: Talk, argument: str) -> int:
    """The number of an image; without one, the last image.

    Raises:
        ConfigError: there is no such image.
    """
    images = talk.session.images
    if not images:
        raise ConfigError("there is no image", "/image PATH adds one")
    if argument and not (argument.isdecimal() and 1 <= int(argument) <= len(images)):
        raise ConfigError(f"no image {argument}", f"give a number from 1 to {len(images)}; /images lists them")
    return int(argument) if argument else len(images)


def _with_number(talk: Talk, argument: str, name: str, what: str) -> tuple[str, int]:
    """An argument, and the number of the image it is for, which may stand behind it.

    Raises:
        ConfigError: there is no argument, or no such image.
    """
    wanted, _, number = argument.partition(" ")
    if not wanted:
        raise ConfigError(f"{name} needs an argument", f"give {what}; a number behind it names the image")
    return wanted, _number(talk, number.strip())


COMMANDS = {
    "/image": Command("PATH", "add an image; it waits for the next question", _image, paths=True),
    "/images": Command("", "list the images", _list_images),
    "/drop": Command("[N]", "take an image out", _drop),
    "/window": Command("NAME|C,W [N]", "look at a scan in another window", _window, (*WINDOWS,)),
    "/slice": Command("N|+1|-1 [N]", "look at another slice; also first, middle, last", _slice, (*FRAMES, "+1", "-1")),
    "/tiles": Command("[N]", "show the scales and tiles that the model saw", _tiles),
    "/reset": Command("", "forget the questions and answers; the images stay", _reset),
    "/retry": Command("", "answer the last question again", _retry),
    "/edit": Command("", "change the last question", _edit),
    "/system": Command("[TEXT]", "what the model is told beforehand; none takes it away", _system, ("none",)),
    "/set": Command("[NAME VALUE]", "show or change a setting", _set, SETTINGS),
    "/save": Command("[FOLDER]", "write the conversation, for people and for finetune", _save, paths=True),
    "/load": Command("FOLDER", "go on with a conversation that was saved", _load, paths=True),
    "/stats": Command("", "tokens, times and room left", _stats),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "end", _quit),
}
