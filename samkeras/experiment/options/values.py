"""How values are written."""


def plain_text(value: object) -> str:
    """A value as Python writes it, but for true and false: as runs record it, and as
    messages repeat what was given."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_text(value: object) -> str:
    """A value as the command line has it, in the shortest text that means it."""
    if value is None:
        return "null"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_text, value))}]"
    return plain_text(value)
