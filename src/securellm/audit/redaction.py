"""Takes out of a body what looks like a secret or like somebody's data: keys, addresses, cards, accounts. Pure.

Best effort, on the text as it stands: it knows shapes, not meanings. What is split over the chunks of a stream, or
written in words, passes; so do names and the like. What has to be kept out for certain is not to be recorded at all:
mode `hash`. Card and account numbers must have their check digits, so that other long numbers stay.

Every pattern looks ahead for a bounded number of characters and begins only where a run of them begins, so that a body
takes time in proportion to its length, whatever is in it. It goes piece by piece, because a search holds the
interpreter's lock while it runs.
"""

import re
from collections.abc import Iterator

PIECE_BYTES = 64 * 1024  # and on to the next quotation mark, so that no text of JSON is cut that is shorter than this
IBAN_CHARACTERS = range(15, 35)
CARD_DIGITS = range(13, 20)

# In JSON a line break is written \\n: what follows it begins a word, though n is a letter.
_BEGINS = rb"(?:(?<![A-Za-z0-9_\\-])|(?<=\\[nrtbf]))"
_KEYS = re.compile(
    _BEGINS + rb"(?:"
    rb"slb_[a-z2-7]{8}_[A-Za-z0-9_-]{8,128}"  # ours
    rb"|sk-[A-Za-z0-9_-]{16,256}"  # OpenAI, Anthropic, DeepSeek, OpenRouter
    rb"|gsk_[A-Za-z0-9]{16,128}|xai-[A-Za-z0-9]{16,128}|nvapi-[A-Za-z0-9_-]{16,128}|hf_[A-Za-z0-9]{16,128}"
    rb"|AIza[A-Za-z0-9_-]{30,64}"  # Google
    rb"|A(?:KIA|SIA)[A-Z0-9]{16}"  # AWS
    rb"|gh[opsur]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255}|glpat-[A-Za-z0-9_-]{16,128}"
    rb"|xox[abeprs]-[A-Za-z0-9-]{10,256}"  # Slack
    rb"|eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{8,2048}"  # JSON Web Token
    rb")"
)
_BEARER = re.compile(_BEGINS + rb"((?i:bearer|basic))[ ]{1,4}[A-Za-z0-9._~+/=-]{16,4096}")
_ASSIGNED = re.compile(
    rb"((?i:api[_-]?key|password|passwd|secret|access[_-]?token)\\?[\"']?[ ]{0,4}[:=][ ]{0,4}\\?[\"'])"
    rb"[^\"'\\\s]{6,512}"
)
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z]{2,16} ){0,2}PRIVATE KEY-----[^-]{0,16384}(?:-----END (?:[A-Z]{2,16} ){0,2}PRIVATE KEY-----)?"
)
_EMAIL = re.compile(
    rb"(?:(?<![A-Za-z0-9._%+\\-])|(?<=\\[nrtbf]))"
    rb"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_IBAN = re.compile(_BEGINS + rb"[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_CARD = re.compile(rb"(?<![\d.-])\d(?:[ -]?\d){12,18}(?!\d)")


def redact(body: bytes) -> bytes:
    """The body with `[redacted:<what>]` in the place of each find."""
    return b"".join(_redact(piece) for piece in _pieces(body))


def _pieces(body: bytes) -> Iterator[bytes]:
    begin = 0
    while begin < len(body):
        quote = body.find(b'"', begin + PIECE_BYTES, begin + 2 * PIECE_BYTES)
        end = quote if quote >= 0 else begin + 2 * PIECE_BYTES
        yield body[begin:end]
        begin = end


def _redact(text: bytes) -> bytes:
    text = _PRIVATE_KEY.sub(b"[redacted:key]", text)
    text = _KEYS.sub(b"[redacted:key]", text)
    text = _BEARER.sub(rb"\1 [redacted:key]", text)
    text = _ASSIGNED.sub(rb"\1[redacted:secret]", text)
    text = _EMAIL.sub(b"[redacted:email]", text)
    text = _IBAN.sub(_without_iban, text)
    return _CARD.sub(_without_card, text)


def _without_iban(match: re.Match[bytes]) -> bytes:
    """The match may go on into words that follow in capitals."""
    text = match[0]
    for end in _ends(text):
        if _is_iban(text[:end]):
            return b"[redacted:iban]" + text[end:]
    return text


def _ends(text: bytes) -> list[int]:
    """Where what begins the text may end: at its end, or before a blank or hyphen, the longest first."""
    return [len(text), *(place for place in range(len(text) - 1, 0, -1) if text[place] in b" -")]


def _is_iban(text: bytes) -> bool:
    """Whether the check digits of ISO 13616 hold (mod 97)."""
    account = text.replace(b" ", b"").decode()
    if len(account) not in IBAN_CHARACTERS:
        return False
    moved = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _without_card(match: re.Match[bytes]) -> bytes:
    """The match may go on into a number that follows, such as the month of expiry."""
    text = match[0]
    for end in _ends(text):
        if _is_card(text[:end]):
            return b"[redacted:card]" + text[end:]
    return text


def _is_card(text: bytes) -> bool:
    """Whether the digits end in the check digit of ISO/IEC 7812 (Luhn)."""
    digits = [byte - 0x30 for byte in text if 0x30 <= byte <= 0x39]
    if len(digits) not in CARD_DIGITS or len(set(digits)) == 1:
        return False
    doubled = (digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
