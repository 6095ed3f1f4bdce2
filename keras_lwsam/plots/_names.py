"""Names of layers and runs as they are written in pictures."""


def plain(name):
    """A name that matplotlib writes as it is, on one line.

    >>> print(plain("a$b$\\n_"))
    a\\$b\\$\ufffd_
    """
    shown = "".join(c if c.isprintable() else "\ufffd" for c in str(name))
    # Dollars would start a formula; a legend leaves out what starts with "_".
    return " " * shown.startswith("_") + shown.replace("$", r"\$")


def shortened(names, limit=36, most=60):
    """Names cut in the middle, where they stay different from each other.

    All are cut at one place, as near to the middle as tells them apart. Where
    no place does, more is kept, and beyond `most` characters they are numbered.

    >>> shortened(["net/block_1/attention/query", "net/block_2/mlp"], 16)
    ['net/bloc…n/query', 'net/block_2/mlp']
    >>> shortened([f"network/block_{i}/attention" for i in (1, 2)], 16)
    ['netw…1/attention', 'netw…2/attention']
    """
    for length in range(limit, most + 1, 4):
        for head in sorted(
            range(1, length - 1), key=lambda h: abs(h - length // 2)
        ):
            cut = [_cut(name, head, length) for name in names]
            if len(set(cut)) == len(set(names)):
                return cut
    return [
        _cut(f"{number}: {name}", limit // 2, limit)
        for number, name in enumerate(names, start=1)
    ]


def _cut(name, head, length):
    if len(name) <= length:
        return name
    return f"{name[:head]}…{name[head + 1 - length :]}"
