"""The Arrow schemas of everything that passes between the verbs, each declared once.

Arrow does not enforce ``nullable=False``, so what must never be null says so in its field's metadata and is checked by
``core.rows``: a required column, and all below it that is not marked optional.  Every field stays nullable for Arrow
itself, because other readers (``datasets.Image``) ask for that.
Change a column, raise the number.
"""

import json

import pyarrow as pa


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, metadata={b"required": b"1"})


def _optional(name: str, type_: pa.DataType) -> pa.Field:
    """A child that may be null although the column it is in may not."""
    return pa.field(name, type_, metadata={b"required": b"0"})


IMAGE = pa.struct([pa.field("bytes", pa.binary()), _optional("path", pa.string())])
"""What Hugging Face's ``Image`` feature asks for, exactly: these two children, nullable, in this order."""


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    """Put the schema's name and, where it holds images, the feature declaration of ``datasets`` into the metadata."""
    metadata = {b"medvlm": json.dumps({"schema": name}).encode()}
    if any(field.type == IMAGE for field in fields):
        features = {field.name: _feature(field.type) for field in fields}
        metadata[b"huggingface"] = json.dumps({"info": {"features": features}}).encode()
    return pa.schema(list(fields), metadata=metadata)


def _feature(type_: pa.DataType) -> dict | list:
    """The type as ``datasets`` spells it in the ``huggingface`` metadata of an Arrow schema."""
    if type_ == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(type_):
        return {"feature": _feature(type_.value_type), "_type": "List"}
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.type) for field in type_}
    if pa.types.is_fixed_size_binary(type_):
        return {"dtype": f"fixed_size_binary[{type_.byte_width}]", "_type": "Value"}
    names = {pa.float64(): "float64", pa.float32(): "float32", pa.bool_(): "bool"}
    return {"dtype": names.get(type_, str(type_)), "_type": "Value"}


def name_of(schema: pa.Schema) -> str:
    """The name and number of a schema of ours, ``figures/1``."""
    return json.loads(schema.metadata[b"medvlm"])["schema"]


def is_required(field: pa.Field) -> bool:
    """Whether a column of ours must never be null."""
    return (field.metadata or {}).get(b"required") == b"1"


def is_optional(field: pa.Field) -> bool:
    """Whether a child of a required column may be null all the same."""
    return (field.metadata or {}).get(b"required") == b"0"


FIGURES = _schema(
    "figures/1",
    _required("figure_id", pa.string()),  # unique in the dataset, "PMC7096066/fig2"
    _required("source", pa.string()),
    _required("image", IMAGE),  # as fetched
    _required("image_sha256", pa.binary(32)),
    _required("width", pa.int32()),  # pixels
    _required("height", pa.int32()),  # pixels
    _required("caption", pa.string()),
    pa.field("label", pa.string()),  # "Figure 2"
    _required("mentions", pa.list_(pa.struct([pa.field("text", pa.string()), _optional("panel", pa.string())]))),
    _required("modality", pa.string()),  # chest_xray ct mri histology gross ... or unknown
    pa.field("modality_source", pa.string()),
    pa.field("n_panels", pa.int32()),
    _required("license", pa.string()),  # SPDX or unknown
    _required("commercial_ok", pa.bool_()),
    _required("retracted", pa.bool_()),
    _required("third_party", pa.bool_()),
    pa.field("article_id", pa.string()),
    pa.field("doi", pa.string()),
    pa.field("title", pa.string()),
    pa.field("url", pa.string()),
)


def _with(schema: pa.Schema, *more: pa.Field) -> pa.Schema:
    """A schema of ours with further columns, which every reader of it keeps and none asks for."""
    return _schema(name_of(schema), *schema, *more)


ARTICLE_FIGURES = _with(
    FIGURES,  # what an article knows beside: enough to credit it, and to find the very object again
    pa.field("article_version", pa.int32()),  # of PMC7096066.2, 2
    pa.field("year", pa.int32()),
    pa.field("journal", pa.string()),
    pa.field("authors", pa.string()),  # "Smith J, Doe A, et al."
    pa.field("license_code", pa.string()),  # as the bucket's metadata has it
    pa.field("source_key", pa.string()),  # "PMC7096066.2/fig2.jpg"
    pa.field("source_md5", pa.string()),  # hex, of the object under that key
    pa.field("n_panels_caption", pa.int32()),  # what the caption tells apart by letters
    pa.field("n_panels_image", pa.int32()),  # what gutters tell apart, in all of its images
    pa.field("more_images", pa.list_(IMAGE)),  # of a figure with several graphics, those after the first
    pa.field("lost_images", pa.list_(pa.string())),  # why others of them are not here
    pa.field("in_subarticle", pa.bool_()),  # in a decision letter, a reply ...
)

SCAN_FIGURES = _with(
    FIGURES,  # how a slice, a slide or deep greyscale became a picture
    pa.field("source_file", pa.string()),  # relative to the folder
    pa.field("frame", pa.int32()),  # of a multi-frame image or a volume, from 0
    pa.field("window_center", pa.float64()),  # in the unit of the rescaled values, HU for CT
    pa.field("window_width", pa.float64()),
    pa.field("region", pa.list_(pa.int64())),  # left, top, width, height in pixels of the largest level
    pa.field("burned_in", pa.bool_()),  # the pixels may hold words about the patient; null: not said
)

ARTICLES = _schema(
    "articles/1",  # what a fetch selected, before it retrieves anything
    _required("article_id", pa.string()),  # PMC7096066
    _required("versions", pa.list_(pa.struct([("version", pa.int32()), _optional("md5", pa.string())]))),
    # versions: empty where the bucket is still to be asked; md5 in hex, of the version's metadata
    pa.field("wanted", pa.list_(pa.struct([("id", pa.string()), ("file", pa.string())]))),  # null: all its figures
)

CONVERSATIONS = _schema(
    "conversations/1",
    _required("conversation_id", pa.string()),
    _required("figure_id", pa.string()),  # joins figures/1; images are stored once
    _required("kind", pa.string()),  # caption or instruct
    _required("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    _required("teacher", pa.string()),  # template, claude:<model>, vllm:<model>, imported:<name>
    _required("teacher_planned", pa.string()),
    _required("prompt_id", pa.string()),  # first 12 hex of the prompt's sha256
    pa.field("request_sha256", pa.string()),
    pa.field("raw_response", pa.string()),
    pa.field("stop_reason", pa.string()),
    pa.field("input_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    pa.field("cost_usd", pa.float64()),
    _required("license_tags", pa.list_(pa.string())),
    _required("split", pa.string()),  # train or val
)

TAUGHT = _with(
    CONVERSATIONS,  # what is known of a conversation that a teacher wrote: enough to ask again, word for word
    pa.field("modalities", pa.list_(pa.string())),  # of the figure; one, as a rule
    pa.field("request", pa.string()),  # the user's message as it was sent; prompt and shots are in the metadata
    pa.field("served_model", pa.string()),  # by the provider's own word
    pa.field("provider_id", pa.string()),  # the provider's id of the answer
    pa.field("cache_write_tokens", pa.int32()),  # input_tokens counts neither these
    pa.field("cache_read_tokens", pa.int32()),  # nor these
    pa.field("thinking_tokens", pa.int32()),  # of output_tokens
    pa.field("attempts", pa.int32()),  # requests that were sent for it
    pa.field("replied", pa.string()),  # when, ISO 8601
    pa.field("repairs", pa.list_(pa.string())),  # what parser and validators mended, as codes
    pa.field("warnings", pa.list_(pa.string())),  # what validators found and let pass, as codes
    pa.field("notes", pa.list_(pa.string())),  # what validators noticed for the statistics, as codes
    pa.field("judge_score", pa.float32()),  # 0 to 1; null where nobody judged
)

REPLIES = _schema(
    "replies/1",  # everything that teachers said, rejected or not, word for word: what `--teacher replay:` reads
    _required("request_sha256", pa.string()),
    _required("figure_id", pa.string()),
    _required("purpose", pa.string()),  # teach or judge
    _required("teacher", pa.string()),  # claude:<model>, vllm:<model>
    _required("request", pa.string()),  # the user's message as it was sent
    _required("outcome", pa.string()),  # answered, or the code of what went wrong for good
    pa.field("raw_response", pa.string()),
    pa.field("stop_reason", pa.string()),
    pa.field("stop_category", pa.string()),
    pa.field("input_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    pa.field("cache_write_tokens", pa.int32()),
    pa.field("cache_read_tokens", pa.int32()),
    pa.field("thinking_tokens", pa.int32()),
    _required("cost_usd", pa.float64()),
    pa.field("served_model", pa.string()),
    pa.field("provider_id", pa.string()),
    _required("attempts", pa.int32()),
    pa.field("replied", pa.string()),
)

QUESTIONS = _schema(
    "questions/1",
    _required("question_id", pa.string()),
    _required("benchmark", pa.string()),
    _required("split", pa.string()),
    _required("kind", pa.string()),  # open or closed
    _required("image", IMAGE),
    _required("image_id", pa.string()),
    _required("question", pa.string()),
    _required("choices", pa.list_(pa.string())),  # empty unless named
    _required("answers", pa.list_(pa.string())),
    pa.field("category", pa.string()),  # the benchmark's own
)

ANSWERS = _schema(
    "answers/1",
    _required("question_id", pa.string()),
    _required("benchmark", pa.string()),
    _required("checkpoint", pa.string()),
    _required("prompt", pa.string()),  # exactly what the model was given
    _required("answer", pa.string()),
    _required("finish", pa.string()),  # stop or length
    _required("tokens", pa.int32()),
    _required("seconds", pa.float32()),
)

SCORED_ANSWERS = _with(
    ANSWERS,  # what each answer is worth, 0 to 1, by each protocol; null where it does not score this kind of question
    pa.field("llama3med_recall", pa.float32()),
    pa.field("llama3med_f1", pa.float32()),
    pa.field("llama3med_precision", pa.float32()),
    pa.field("llama3med_accuracy", pa.float32()),  # closed questions: 0 or 1
    pa.field("strict_recall", pa.float32()),
    pa.field("strict_f1", pa.float32()),
    pa.field("strict_exact_match", pa.float32()),
    pa.field("strict_accuracy", pa.float32()),  # closed questions: 0 or 1
    pa.field("strict_unparsed", pa.float32()),  # closed questions: 1 where the answer names none or several
)

STEPS = _schema(
    "steps/1",
    _required("step", pa.int64()),
    _required("loss", pa.float32()),  # nats per target token
    _required("lr", pa.float32()),
    _required("grad_norm", pa.float32()),
    _required("tokens", pa.int64()),
    _required("seconds", pa.float32()),
    pa.field("peak_bytes", pa.int64()),
    pa.field("target_tokens", pa.int64()),
    pa.field("images", pa.int64()),
    pa.field("tokens_per_second", pa.float32()),
    pa.field("images_per_second", pa.float32()),
    pa.field("mfu", pa.float32()),  # 0 to 1; null where no datasheet states the device's speed
    pa.field("held_out_loss", pa.float32()),  # nats per target token; null where it was not measured
    pa.field("padding", pa.float32()),  # share of the tokens that were computed, 0 to 1
)

REJECTS = _schema(
    "rejects/1",
    _required("id", pa.string()),
    _required("stage", pa.string()),
    _required("reason", pa.string()),  # a code
    _required("message", pa.string()),
    pa.field("raw", pa.string()),
)


STORED = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16(), "int8": pa.int8()}
"""How tower features are stored, and as which numbers: Arrow has no bfloat16, so its bit patterns are."""


def features_schema(tokens: int, channels: int, stored: str = "float16") -> pa.Schema:
    """The schema of cached tower features, features/1; 5.6 MB an image at 729 tokens of 3840 channels in bfloat16.

    Args:
        tokens: of one image.
        channels: of one token, all scales joined.
        stored: a name of ``STORED``.  ``int8`` is an approximation: number times the channel's scale.
    """
    values = pa.list_(STORED[stored], tokens * channels)
    reduced = [
        _required("channel_scales", pa.list_(pa.float32(), channels)),
        _required("error", pa.float32()),  # of the whole image: |restored - exact| / |exact|
    ]
    return _schema(
        "features/1",
        _required("figure_id", pa.string()),  # of the figure or image that it was first made for
        _required("image_sha256", pa.binary(32)),  # of the image file; unique as well
        _required("tower", pa.string()),  # first 12 hex of the hash of its weights and settings
        _required("scales", pa.list_(pa.int32())),  # pixels
        pa.field("features", values, metadata={b"required": b"1", b"stored": stored.encode()}),  # token by token
        *(reduced if stored == "int8" else []),
    )


PUBLISHED_QUESTIONS = _with(
    QUESTIONS,  # of a benchmark that published more than is read of it
    pa.field("also_in", pa.list_(pa.string())),  # splits with questions about this image that are not here: "zh train"
)

HASHES = _schema(
    "hashes/1",
    _required("image_sha256", pa.string()),  # of the image file, in hex
    pa.field("bits", pa.binary(32)),  # null where the image has no detail to compare
    pa.field("thumbnail", pa.binary()),  # 64 x 64 grey values, row by row
)
