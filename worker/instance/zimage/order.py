"""order — a submitted job, checked: every limit of API.md is enforced here and nowhere else."""
import json
import re
from dataclasses import dataclass

BODY_BYTES = 65536
PROMPT_CHARACTERS = 4000
SIDE_LEAST, SIDE_MOST, SIDE_STEP = 64, 2048, 16
STEPS_MOST = 50
GUIDANCE_MOST = 20
IMAGES_MOST = 8
SEED_MOST = 2**32 - 1
FORMATS = ("png", "jpeg", "webp")
ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
FIELDS = ("id", "prompt", "negative_prompt", "width", "height", "steps", "guidance", "seed", "n", "format")


class Refused(Exception):
    """Why a request is not done: an HTTP status, a code for programs, a text for people."""

    def __init__(self, status, code, message, field=None):
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field

    def document(self):
        error = {"code": self.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}


@dataclass(frozen=True)
class Order:
    """What was asked for."""
    id: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    n: int
    format: str

    def seed_of(self, index):
        return (self.seed + index) % 2**32


def _object_once(pairs):
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a member is there twice")
    return keys


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


def _decode(body):
    try:
        # str, not bytes: json would take UTF-16 for granted in bytes.
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object_once, parse_constant=_no_constant)
        # A lone surrogate (\ud800) cannot be encoded, and no text may hold a NUL.
        if "\0" in json.dumps(document, ensure_ascii=False).encode("utf-8").decode() or b"\\u0000" in body:
            raise ValueError("a text holds a NUL")
    except (ValueError, RecursionError) as trouble:
        raise Refused(400, "bad_json", str(trouble)[:200] or "no JSON") from None
    if not isinstance(document, dict):
        raise Refused(400, "bad_json", "must be a JSON object")
    return document


def _bad(field, message):
    return Refused(422, "bad_field", message, field)


def _text(document, field, least):
    value = document.get(field)
    if value is None and least == 0 and field not in document:
        return ""
    if not isinstance(value, str) or not least <= len(value) <= PROMPT_CHARACTERS:
        raise _bad(field, f"must be a string of {least} to {PROMPT_CHARACTERS} characters")
    return value


def _integer(document, field, least, most, step=1, otherwise=None):
    if field not in document and otherwise is not None:
        return otherwise
    value = document.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most or value % step:
        of = f"a multiple of {step}" if step > 1 else "an integer"
        raise _bad(field, f"must be {of} from {least} to {most}")
    return value


def read(body, max_pixels=SIDE_MOST * SIDE_MOST):
    """The order in a body; raises Refused at the first mistake."""
    document = _decode(body)
    name = document.get("id")
    if not isinstance(name, str) or not ID.match(name):
        raise _bad("id", "must be 1 to 64 characters of [A-Za-z0-9._-]")
    for field in document:
        if field not in FIELDS:
            raise _bad(field[:64], "no such field")
    guidance = document.get("guidance", 0)
    if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not 0 <= guidance <= GUIDANCE_MOST:
        raise _bad("guidance", f"must be a number from 0 to {GUIDANCE_MOST}")
    kind = document.get("format", "png")
    if kind not in FORMATS:
        raise _bad("format", "must be one of " + ", ".join(FORMATS))
    order = Order(
        id=name, prompt=_text(document, "prompt", 1), negative_prompt=_text(document, "negative_prompt", 0),
        width=_integer(document, "width", SIDE_LEAST, SIDE_MOST, SIDE_STEP),
        height=_integer(document, "height", SIDE_LEAST, SIDE_MOST, SIDE_STEP),
        steps=_integer(document, "steps", 1, STEPS_MOST), guidance=float(guidance),
        seed=_integer(document, "seed", 0, SEED_MOST), n=_integer(document, "n", 1, IMAGES_MOST, otherwise=1),
        format=kind)
    if order.width * order.height > max_pixels:
        raise _bad("width", f"width x height must not pass {max_pixels} pixels")
    return order
