"""Names from outside, made fit for a line of ours."""

from shoal.traces import words

# What would turn the direction of the sentence around a name, and what no XML file may hold.
_AWAY = dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF))


def plain(text: object, width: int) -> str:
    """The text on one line of at most `width` characters, without anything that would act on what stands beside it."""
    return words.short(upright(str(text)), width)


def upright(text: str) -> str:
    """The text, in the order in which its letters are, whatever it says of its direction."""
    return text.translate(_AWAY)


def clipped(text: str, most: int) -> str:
    """The beginning of a long text, and how much there is more of it."""
    return text if len(text) <= most else f"{text[:most]}… ({words.count(len(text) - most)} more characters)"
