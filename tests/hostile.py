"""Text that a shell, YAML or a template could take for its own."""

from hypothesis import strategies as st

from planner.site import Site

# Paths that a file system allows, and text that a shell, YAML or a template could take for its own.
HOSTILE = st.sampled_from(
    [
        "$(touch pwned)",
        "`touch pwned`",
        "'; touch pwned; '",
        '"; touch pwned; "',
        "a\nb",
        "a b",
        "${HOME}",
        "$HOME",
        "@@world_size",
        "%s",
        "\\",
        "# x",
        ": x",
        "é\U0001f600",
        "*",
        "~",
        "&& x",
        "\udcff",
        "true",
        "null",
        "1e5",
        "\x7f",
        "\u2028",
        "!x",
        "${x:-y}",
        "<(x)",
        "\ttab",
        "-n",
    ]
)
PATHS = st.lists(
    HOSTILE
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    min_size=1,
    max_size=4,
).map("".join)
SITES = st.builds(
    Site,
    model_path=PATHS.map(lambda path: f"/{path}") | PATHS.filter(lambda path: path[0] != "-"),
    dataset=st.lists(PATHS.map(lambda path: f"d{path}"), min_size=1, max_size=3).map(tuple),
    env=st.dictionaries(st.sampled_from(["SITE_A", "SITE_B"]), PATHS),
)
