"""Labels of the wrong shape and boxes that are none; each sample between two good ones of its shard."""

import json

from tests.corpus.case import GOOD, HAND, BadInput, Row, good, into, label, rejected, tar


def _case(name: str, text: bytes, rows: tuple[Row, ...]) -> BadInput:
    members = [
        *(("a.jpg", GOOD), ("a.json", label(HAND))),
        *(("k.jpg", GOOD), ("k.json", text)),
        *(("z.jpg", GOOD), ("z.json", label(HAND))),
    ]
    return BadInput(name, into("s.tar", tar(members)), (*good("a", "z"), *rows), boxes="given")


def _no_label(name: str, text: bytes) -> BadInput:
    return _case(f"label: {name}", text, rejected("k", "unreadable label", hand_index=None))


def _no_hands(name: str, hands: object) -> BadInput:
    text = json.dumps({"hands": hands}).encode()
    return _case(f"hands: {name}", text, rejected("k", "bad box", "boxes", hand_index=None))


def _bad_hand(name: str, entry: object, kind: str = "bad box") -> BadInput:
    """The bad hand costs itself alone: the one behind it is annotated."""
    rows = (Row("k", 0, "rejected", "boxes", kind), Row("k", 1, "annotated"))
    return _case(f"hand: {name}", label(entry, HAND), rows)


def _bad_box(name: str, bbox: object, kind: str = "bad box") -> BadInput:
    return _bad_hand(f"box {name}", {"bbox": bbox, "side": "left"}, kind)


def _fine(name: str, text: bytes) -> BadInput:
    return _case(name, text, good("k"))


def _no_camera(name: str, camera: object) -> BadInput:
    """A camera that is none costs the hand its place alone, and no guess stands in for it."""
    rows = (Row("k", 0, "annotated", "place", "no translation"),)
    return _case(f"label: camera is {name}", json.dumps({"hands": [HAND], "camera": camera}).encode(), rows)


def nested(depth: int) -> bytes:
    """Returns a label whose box is a list in a list in a list …"""
    return b'{"hands": [{"side": "left", "bbox": ' + b"[" * depth + b"]" * depth + b"}]}"


LABELS = (
    _no_label("empty", b""),
    _no_label("not JSON", b"{hands: 1}"),
    _no_label("cut", label(HAND)[:-9]),
    _no_label("not UTF-8", b'{"hands": [], "who": "\xff\xfe"}'),
    _no_label("binary", bytes(range(256))),
    _no_label("nested a million deep", nested(1_000_000)),
    _no_label("a number of 10000 digits", b'{"hands": ' + b"1" * 10_000 + b"}"),
    _no_label("a list", json.dumps([HAND]).encode()),
    _no_label("a string", b'"hands"'),
    _no_label("null", b"null"),
    _no_label("larger than 64 MiB", b" " * ((64 << 20) + 1)),
    _case("label: without hands", b"{}", rejected("k", "no boxes", "boxes", hand_index=None)),
    _case("label: hands are null", b'{"hands": null}', rejected("k", "no boxes", "boxes", hand_index=None)),
    _case("label: no hand", b'{"hands": []}', (Row("k", None, "no_hand"),)),
    _fine(
        "label: another one inside, two of a name",
        b'{"hands": 3, "hands": [' + json.dumps(HAND).encode() + b"]}",
    ),
    _fine("label: UTF-8 with a byte order mark", b"\xef\xbb\xbf" + label(HAND)),
    _fine("label: UTF-16", label(HAND).decode().encode("utf-16")),
    _no_camera("nonsense", [{}, "x", 1e999]),
    _no_camera("not finite", [1e999, 1, 1, 1]),
    _no_camera("a matrix", [[500, 0, 24], [0, 500, 24], [0, 0, 1]]),
    _fine("label: score has 400 digits", label({**HAND, "score": 10**400})),
    _fine("label: score is not a number", label({**HAND, "score": float("nan")})),
    _no_hands("an object", HAND),
    _no_hands("a string", "right"),
    _no_hands("a number", 7),
    _no_hands("true", True),
    _case(
        "hands: a hundred thousand",
        json.dumps({"hands": [HAND] * 100_000}).encode(),
        rejected("k", "too many hands", "boxes", hand_index=None),
    ),
    _bad_hand("null", None),
    _bad_hand("a list", [1, 2, 3, 4]),
    _bad_hand("a string", "right"),
    _bad_hand("no box", {"side": "left"}),
    _bad_hand("no side", {"bbox": HAND["bbox"]}, "no side"),
    _bad_hand("an unknown side", {**HAND, "side": "both"}),
    _bad_hand("side is an object", {**HAND, "side": {"left": 1}}),
    _bad_hand("side is half a character", {**HAND, "side": "\ud800"}),
    _bad_box("not a number", [1, 2, float("nan"), 4]),
    _bad_box("infinite", [1, 2, float("inf"), 4]),
    _bad_box("of 1e300", [0, 0, 1e300, 1e300]),
    _bad_box("of 400 digits", [0, 0, 10**400, 4]),
    _bad_box("of no width", [8, 8, 0, 9]),
    _bad_box("of negative size", [40, 40, -30, -30]),
    _bad_box("of three numbers", [1, 2, 3]),
    _bad_box("of corners in pairs", [[8, 8], [32, 32]]),
    _bad_box("of strings", ["8", "8", "32", "32"]),
    _bad_box("in one string", "8 8 32 32"),
    _bad_box("of booleans", [True, True, True, True]),
    _bad_box("of nulls", [None, None, None, None]),
    _bad_box("an object", {"x": 8, "y": 8, "w": 32, "h": 32}),
    _bad_box("null", None),
    _bad_box("half a character", "\ud800"),
    _bad_box("left of the image", [-50, 8, 20, 20], "box outside"),
    _bad_box("right of the image", [48, 8, 20, 20], "box outside"),
    _bad_box("far away", [1e30, 1e30, 5, 5], "box outside"),
    _bad_box("of a tenth of a pixel", [8, 8, 0.1, 0.1], "box outside"),
    _fine("hand: box that covers more than the world", label({**HAND, "bbox": [-1e30, -1e30, 2e30, 2e30]})),
    _fine("hand: box partly outside", label({**HAND, "bbox": [-10, -10, 30, 30]})),
    *(
        _case(f"label: box nested {depth} deep", nested(depth), rejected("k", "bad box", "boxes"))
        for depth in (50, 500)
    ),
)
