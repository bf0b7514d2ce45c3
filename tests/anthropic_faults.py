"""What the loopback server says and what it does wrong, all of it decided by seeds.

An answer depends on the last user message alone and carries a word made of that message's SHA-256, so that a test can
compute what must come back (``reply_for``) and notice an answer that went to another row.
"""

import hashlib
import json
import random
import re
import struct
from collections import Counter

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvwz" for vowel in "aeiou"]

WORDS = {
    "place": (
        "upper left", "upper right", "lower left", "lower right", "central", "upper", "lower", "left", "right",
        "outermost", "innermost", "front", "back", "middle", "far left", "far right",
    ),
    "shape": (
        "rounded", "oval", "branching", "wedge-like", "band-like", "irregular", "lobed", "ring-like", "patchy",
        "crescent-like", "thread-like", "flat", "star-like", "honeycombed",
    ),
    "tone": (
        "brighter", "darker", "paler", "denser", "slightly brighter", "slightly darker", "clearly darker",
        "clearly brighter", "duller", "more even", "less even", "more intense",
    ),
    "edge": (
        "smooth", "blurred", "sharp", "ragged", "wavy", "partly hidden", "well defined", "poorly defined", "scalloped",
        "frayed",
    ),
    "texture": (
        "fine grains", "coarse strands", "parallel lines", "tiny dots", "soft folds", "thin layers", "small gaps",
        "loose meshes", "swirls", "faint streaks",
    ),
    "size": (
        "small", "fairly small", "moderate", "fairly large", "large", "thumbnail-sized", "broad", "narrow", "slender",
    ),
    "thing": (
        "area", "zone", "spot", "patch", "band", "cluster", "rim", "pocket", "layer", "strand", "island", "ridge",
    ),
    "near": (
        "the border of the image", "its neighbours", "the surrounding tissue", "the opposite side", "the midline",
        "the deeper layers", "the outer contour", "the background", "the adjoining folds", "the brightest part",
    ),
}  # fmt: skip
ASPECTS = (
    (("What stands out first in the image?", "Where does the eye go first?", "Is there one part that catches the eye?"),
     ("A {size} {token} {thing} in the {place} part of the image appears {tone} than {near}.",
      "The image shows a {shape} {token} {thing}, which seems {tone} than {near}.",
      "Most conspicuous in the image is a {token} {thing} that looks {shape} and {tone} than {near}.")),
    (("How would you describe its outline?", "What do the borders look like?", "Are the margins easy to follow?"),
     ("In the image the outline of the {token} {thing} appears {edge}, above all towards {near}.",
      "The border of the {token} {thing} looks {edge} in the image and turns {shape} near the {place} end.",
      "Its margin seems {edge}; in the image the {token} {thing} fades slowly into {near}.")),
    (("Can you make out a texture?", "Is the inside even?", "What pattern is visible inside?"),
     ("Inside the {token} {thing} the image suggests {texture}, which appear {tone} towards the {place} end.",
      "The pattern of the {token} {thing} may be described as {texture}, seen best in the {place} part of the image.",
      "It does not look even: the image shows {texture} within the {token} {thing}.")),
    (("How large does it appear?", "What is its size compared with the rest?", "Does it take up much room?"),
     ("The {token} {thing} appears {size} in the image when it is compared with {near}.",
      "In the image it looks {size}; the {token} {thing} reaches as far as {near}.",
      "Compared with {near}, the {token} {thing} seems {size} and {shape} in this image.")),
    (("Where does it lie?", "In which part of the image is it?", "What is its position?"),
     ("The {token} {thing} lies in the {place} part of the image, close to {near}.",
      "It appears in the {place} region; in the image the {token} {thing} borders on {near}.",
      "The image shows the {token} {thing} on the {place} side, a little away from {near}.")),
    (("How does the brightness differ?", "Is it brighter or darker than the rest?", "What about its grey or colour?"),
     ("In the image the {token} {thing} appears {tone} than {near}, and its middle seems {tone} still.",
      "Its tone is {tone} than {near}; the {token} {thing} keeps that look over the {place} part of the image.",
      "The image suggests that the {token} {thing} is {tone} than {near}, with {texture} in between.")),
    (("What shape does it have?", "Does it have a form that can be named?", "How is it shaped?"),
     ("The {token} {thing} looks {shape} in the image, with an {edge} contour on the {place} side.",
      "Its form may be called {shape}; in the image the {token} {thing} narrows towards {near}.",
      "In the image one sees a {shape} form, and the {token} {thing} appears to end at {near}.")),
    (("How does it relate to what lies around it?", "Does it touch its surroundings?", "Is anything pushed aside?"),
     ("The {token} {thing} seems to touch {near}, and nothing in the image looks displaced.",
      "In the image {near} appears to bend around the {token} {thing}, which may mean gentle pressure.",
      "Between the {token} {thing} and {near} the image shows a {size} gap with {texture}.")),
    (("Is there more than one of them?", "Are there others like it?", "Is it alone?"),
     ("Besides the {token} {thing} the image shows a few {size} ones of {shape} form in the {place} part.",
      "It seems to be alone: no second {token} {thing} can be made out in the {place} part of the image.",
      "Several {shape} ones may be seen; the {token} {thing} in the image is the {tone} one.")),
    (("What looks ordinary in the image?", "Which parts appear unremarkable?", "Does anything look as usual?"),
     ("Away from the {token} {thing}, {near} appears even and {edge} in the image.",
      "The {place} part of the image looks unremarkable, apart from {texture} beside the {token} {thing}.",
      "Everything but the {token} {thing} seems regular in the image, and {near} keeps its {shape} form.")),
    (("Do both sides look alike?", "Is the image symmetrical?", "How do the two halves compare?"),
     ("They differ a little: the {token} {thing} makes the {place} half of the image appear {tone}.",
      "In the image both halves look alike except for the {token} {thing}, which is {shape}.",
      "The image is not quite symmetrical, because the {token} {thing} lies closer to {near}.")),
    (("What might this appearance suggest?", "How could one read this finding?", "What should one keep in mind here?"),
     ("The {token} {thing} may be consistent with several conditions; the image alone cannot tell them apart.",
      "Such a {shape} {token} {thing} in the image could have more than one cause.",
      "The image suggests a change around the {token} {thing}, yet its {edge} border leaves room for doubt.")),
)  # fmt: skip
"""Questions and their answers by what they are about: 36 of each."""
MORE = (
    "Towards {near} it becomes {tone}.", "The transition to {near} appears {edge}.", "One can follow {texture} there.",
    "This helps to tell it from {near}.", "Such {texture} are easy to overlook.", "The rest of it looks {shape}.",
    "On the {place} side this is less clear.", "A {size} {thing} next to it seems {tone}.",
    "It may be worth comparing it with {near}.", "The impression is that of {texture}.",
    "Further out it looks {edge} and {shape}.", "Around it {near} seems {tone}.", "Its core looks {tone} and {edge}.",
    "That gives the {place} part a {shape} look.", "The {place} end of it appears {size}.",
    "There is a hint of {texture} as well.", "Seen as a whole it is rather {size}.", "The {thing} beside it is {edge}.",
    "Hardly anything else there looks {tone}.", "Its depth cannot be judged from one view.",
)  # fmt: skip
CLOSING = (
    "A qualified specialist should judge what it means.", "What it means is for a radiologist or pathologist to say.",
    "An expert would read it together with everything else that is known.",
    "Whether it matters is a question for a clinician.", "A physician should weigh it before anything is concluded.",
)  # fmt: skip

MALFORMED = (
    lambda text: text.replace("User: ", "").replace("Assistant: ", ""),  # nobody speaks
    lambda text: "\n".join(text.split("\n")[:2]),  # one question only
    lambda text: "\n".join(line for line in text.split("\n") if line.startswith("User: ")),
    lambda text: '{"turns": [{"user": "' + text[6:40],
    lambda text: "I am sorry, but I cannot see the image, so I cannot write this conversation.",
    lambda text: "<html><body><h1>Service unavailable</h1></body></html>",
    lambda text: "User: What is seen?\nAssistant: " + "it is it is " * 40,
    lambda text: " ",
)
"""What becomes of a text: nothing of which two questions with answers can be made."""
REFUSED = ("bio", "frontier_llm", "cyber", "general_harms", None)
"""Categories of refusals, the likeliest first."""


class Drawn:
    """Choices that depend on a text alone."""

    def __init__(self, text):
        self._left = int.from_bytes(hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(120), "big")

    def of(self, options):
        self._left, number = divmod(self._left, len(options))
        return options[number]


def chances(seed, text):
    """Eight numbers from 0 to 1 that depend on a seed and a text."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return [one / 2**32 for one in struct.unpack(">8I", digest)]


def token_of(text):
    """The word, of letters only, that every answer to a user message with this text holds."""
    left = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    syllables = []
    for _ in range(7):
        left, number = divmod(left, len(_SYLLABLES))
        syllables.append(_SYLLABLES[number])
    return "".join(syllables)


def text_of(content):
    """The words of a message's content, or of a system prompt: a string, or blocks."""
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text") or "" for block in content or ())


def last_user(body):
    """The words of the last user message of a request; of either API."""
    return next((text_of(one["content"]) for one in reversed(body["messages"]) if one["role"] == "user"), "")


def pairs_for(text):
    """Two to four questions with their answers, for the text of a user message; every answer holds its token."""
    drawn, token = Drawn(text), token_of(text)
    aspects = list(ASPECTS)
    said = []
    for number in range(drawn.of((2, 3, 3, 4)), 0, -1):
        questions, answers = aspects.pop(aspects.index(drawn.of(aspects)))
        pattern = f"{drawn.of(answers)} {drawn.of(MORE)}" + (f" {drawn.of(CLOSING)}" if number == 1 else "")
        words = {name: drawn.of(options) for name, options in WORDS.items()}
        said.append((drawn.of(questions), pattern.format(token=token, **words)))
    return said


def reply_for(body):
    """What the server answers to a request, of either API, where nothing goes wrong.

    Lines of ``User:`` and ``Assistant:``; JSON with ``turns`` where the request asks for JSON; a judge's mark where the
    system prompt asks for one.
    """
    text = last_user(body)
    system = body.get("system") or next((one["content"] for one in body["messages"] if one["role"] == "system"), "")
    if '"no_leak"' in text_of(system):
        grounded = Drawn(text).of((1, 1, 1, 1, 1, 1, 1, 0))
        return json.dumps({"grounded": grounded, "visual": 1, "no_leak": 1, "safe": 1, "why": token_of(text)})
    pairs = pairs_for(text)
    form = (body.get("output_config") or {}).get("format") or body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return json.dumps({"turns": [{"user": question, "assistant": answer} for question, answer in pairs]})
    return "\n".join(f"User: {question}\nAssistant: {answer}" for question, answer in pairs)


# ---------------------------------------------------------------------- what goes wrong

ERRORS = {
    "400": (400, "invalid_request_error", "messages: this request is refused"),
    "401": (401, "authentication_error", "invalid x-api-key"),
    "402": (402, "billing_error", "Your credit balance is too low to access the Anthropic API."),
    "403": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "404": (404, "not_found_error", "Not found"),
    "408": (408, "timeout_error", "Request timed out"),
    "413": (413, "request_too_large", "Request exceeds the maximum size"),
    "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "500": (500, "api_error", "Internal server error"),
    "502": (502, "api_error", "Bad gateway"),
    "503": (503, "api_error", "Service unavailable"),
    "504": (504, "timeout_error", "Gateway timeout"),
    "529": (529, "overloaded_error", "Overloaded"),
    "spend limit": (400, "invalid_request_error", "You have reached your specified API usage limits."),
    "ramp limit": (429, "rate_limit_error", "This request would exceed the rate at which your usage may grow."),
}
"""Status, type and message.  A number behind the name, ``429 99999``, goes out as Retry-After."""
CODES = {"spend limit": "enforced_spend_limit_reached", "ramp limit": "ramp_limit_exceeded"}

_ID = re.compile(r"msgbatch_\w+")
_RESULTS = r"^GET /v1/messages/batches/[^/]+/results$"
_POST = r"^POST /v1/(messages|messages/batches|chat/completions)$"
_CREATE = r"^POST /v1/messages/batches$"
FAULTS = {
    "connect": "",  # accepted, then reset before the body is read
    "read timeout": "",  # read, and never answered; nothing is done
    "html 200": "",  # a page instead of an answer: the SDK passes it on as a string
    "html as json": "",  # a page that says it is JSON: the SDK lets a bare JSONDecodeError through
    "empty 200": "",
    "drop after accept": _POST,  # done, billed where that costs, and the connection closed without an answer
    "hang after accept": _POST,  # the same, but the connection stays open
    "cut results": _RESULTS,  # the stream ends too early, in the middle of a line, and without an error
    "drop results": _RESULTS,  # the connection breaks in the middle
    "malformed line": _RESULTS,
    "unknown type": _RESULTS,
    "duplicate custom_id": _RESULTS,
    "foreign custom_id": _RESULTS,
    "results on another host": _CREATE,  # of this batch, from then on
    "archived": _CREATE,
}
"""What else goes wrong, and with which requests ("METHOD /path") where a test does not say."""


_PAGE = b"<html><body>We are having a break.</body></html>"
PAGES = {
    "html 200": (200, {"content-type": "text/html"}, _PAGE),
    "html as json": (200, {}, _PAGE),
    "empty 200": (200, {}, b""),
}


def is_fault(name):
    return name in FAULTS or name in ERRORS or name.rpartition(" ")[0] in ERRORS


def error_of(name):
    """Status, type, message, error code and Retry-After of a fault that is an answer; None for the others."""
    short, after = (name, None) if name in ERRORS else name.rpartition(" ")[::2]
    if short not in ERRORS:
        return None
    return (*ERRORS[short], CODES.get(short), after if after or short != "ramp limit" else "1")


class Faults:
    """Decides what goes wrong.

    Args:
        shares: fault -> share of the requests, or (share, regular expression of "METHOD /path").
        fault: ``fault(number, method, path) -> name | None``, asked first; numbers begin at 1.
        seed: which requests.
    """

    def __init__(self, shares, fault, seed):
        self._fault, self._seed, self._shares, self._asked = fault, seed, [], Counter()
        for name, given in shares.items():
            share, where = given if isinstance(given, tuple | list) else (given, FAULTS.get(name, ""))
            self._shares.append((_known(name), share, re.compile(where)))

    def of(self, number, method, path):
        """What goes wrong with a request; empty for nothing.

        The nth request of a kind fares alike however many of another kind, such as looks at a batch, come before it.
        """
        if self._fault is not None and (name := self._fault(number, method, path)):
            return _known(name)
        if not self._shares:
            return ""
        asked = f"{method} {path}"
        kind = _ID.sub("ID", asked)
        self._asked[kind] += 1
        chance = chances(self._seed, f"{kind} {self._asked[kind]}")[0]
        for name, share, where in self._shares:
            if where.search(asked):
                if chance < share:
                    return name
                chance -= share
        return ""


def _known(name):
    if not is_fault(name):
        raise ValueError(f"no fault is called {name!r}: {', '.join([*ERRORS, *FAULTS])}")
    return name


def spoiled(lines, fault, seed):
    """Lines of results with one of the faults that results have; which line is a matter of the seed."""
    if fault not in FAULTS or not lines:
        return lines
    drawn = random.Random(f"results {seed}")
    at, to = drawn.randrange(len(lines)), drawn.randrange(len(lines) + 1)
    lines = list(lines)
    entry = json.loads(lines[at])
    if fault == "malformed line":
        lines[at] = lines[at][: len(lines[at]) // 2] + b"\n"
    elif fault == "unknown type":
        lines[at] = json.dumps({"custom_id": entry["custom_id"], "result": {"type": "brand_new"}}).encode() + b"\n"
    elif fault == "duplicate custom_id":
        lines.insert(to, lines[at])
    elif fault == "foreign custom_id":
        lines.insert(to, json.dumps(entry | {"custom_id": f"foreign-{drawn.getrandbits(32):08x}"}).encode() + b"\n")
    elif fault == "cut results":
        lines[at:] = [lines[at][: len(lines[at]) // 2]]
    return lines


# ---------------------------------------------------------------------- what is refused

_FIELDS = {
    "model", "max_tokens", "messages", "system", "stop_sequences", "output_config", "thinking", "cache_control",
    "metadata", "service_tier", "inference_geo", "tools", "tool_choice", "container", "diagnostics", "stream",
}  # fmt: skip
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ApiError(Exception):
    """An answer that is an error; ``param`` is told by vLLM only, ``code`` by Anthropic only."""

    def __init__(self, status, kind, message, *, code=None, param=None, after=None):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.code, self.param, self.after = code, param, after

    def body(self, request_id, *, vllm):
        if vllm:
            kind = {400: "BadRequestError", 404: "NotFoundError"}.get(self.status, self.kind)
            return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}
        told = {"type": self.kind, "message": self.message}
        if self.code:
            told["details"] = {"error_code": self.code}
        return {"type": "error", "error": told, "request_id": request_id}


def invalid(message):
    return ApiError(400, "invalid_request_error", message)


def not_found(message):
    return ApiError(404, "not_found_error", message)


def refuse(params, models):
    """Raise what the API says to parameters of a message that it does not take."""
    if not isinstance(params, dict):
        raise invalid("Input should be a valid dictionary")
    for name in ("model", "max_tokens", "messages"):
        if name not in params:
            raise invalid(f"{name}: Field required")
    for name in params:
        if name not in _FIELDS:
            raise invalid(f"{name}: Extra inputs are not permitted")
    if params["model"] not in models:
        raise not_found(f"model: {params['model']}")
    if not isinstance(params["max_tokens"], int) or params["max_tokens"] < 1:
        raise invalid("max_tokens: Input should be greater than or equal to 1")
    said = params["messages"]
    if not isinstance(said, list) or not said:
        raise invalid("messages: at least one message is required")
    for number, one in enumerate(said):
        if one.get("role") not in ("user", "assistant"):
            raise invalid(f"messages.{number}.role: Input should be 'user' or 'assistant'")
        if not text_of(one.get("content")).strip():
            raise invalid(f"messages.{number}: all messages must have non-empty content")
    if said[-1]["role"] == "assistant":
        raise invalid("This model does not support assistant message prefill.")
    if params.get("stream"):
        raise invalid("stream: this server does not stream")
    if (params.get("thinking") or {}).get("type") == "disabled" and params["model"] == "claude-opus-5-5":
        raise invalid("thinking: it cannot be disabled for this model")


def custom_ids_of(requests, most):
    """The ids of the requests of a batch; raises what the API says at once, which leaves out the parameters."""
    if not isinstance(requests, list) or not requests:
        raise invalid("requests: List should have at least 1 item after validation, not 0")
    if len(requests) > most:
        raise invalid(f"requests: List should have at most {most} items after validation, not {len(requests)}")
    seen = {}
    for number, one in enumerate(requests):
        name = one.get("custom_id") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise invalid(f"requests.{number}.custom_id: Field required")
        if "params" not in one:
            raise invalid(f"requests.{number}.params: Field required")
        if len(name) > 64:
            raise invalid(f"requests.{number}.custom_id: String should have at most 64 characters")
        if not _CUSTOM_ID.fullmatch(name):
            raise invalid(f"requests.{number}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if name in seen:
            raise invalid(f"requests.{number}.custom_id: custom_id must be unique within a batch: {name}")
        seen[name] = number
    return list(seen)
