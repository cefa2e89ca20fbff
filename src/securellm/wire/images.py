"""Data URLs, in which OpenAI's dialect carries what the others carry as base64 beside a media type. Pure."""

from securellm.errors import BadRequest


def parse_data_url(url: str, param: str) -> tuple[str, str] | None:
    """Media type and base64 text of a `data:` URL; None for any other URL. Raises BadRequest for a broken one."""
    if url[:5].lower() != "data:":
        return None
    head, comma, data = url[5:].partition(",")
    media_type, *attributes = head.split(";")
    if not comma or "base64" not in (attribute.strip().lower() for attribute in attributes):
        raise BadRequest(f"{param}: a data url must be base64", param=param)
    return media_type.strip().lower() or "text/plain", data


def encode_data_url(media_type: str, data: str) -> str:
    """The `data:` URL of base64 text."""
    return f"data:{media_type};base64,{data}"
