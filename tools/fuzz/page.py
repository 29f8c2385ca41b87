"""The page of the random calls, made from the contents of fuzz.json."""

from ald_ext.paper.report.tables import markdown_table
from benchmarks.page import Results


def fuzz_page(results: Results) -> str:
    """Markdown: what was called, what differed, and where the figures come from."""
    found = results["differences"]
    calls, spoilt = (sum(op[name] for op in results["ops"].values()) for name in ("calls", "spoilt"))
    under = "under AddressSanitizer and UBSan" if results["sanitized"] else "without sanitizers"
    rows = [[f"`{name}`", str(op["calls"]), str(op["spoilt"])] for name, op in sorted(results["ops"].items())]
    versions = results["versions"]
    origin = (
        f"torch {versions['torch']}, Python {versions['python']}, {versions['compiler']}, commit {results['commit']}"
    )
    paragraphs = [
        "# Random calls of the ops",
        f"`make fuzz`: {calls:,} random calls of the functions of `ald_ext.ops` {under}, with seed {results['seed']}, "
        f"on the instruction sets {', '.join(results['instruction_sets'])}. "
        + (f"**{len(found)} differences.**" if found else "No crash, no undefined behaviour, no difference."),
        "Drawn are shapes, memory layouts (gaps, any order of dimensions, negated views, shared memory), dtypes, "
        "values (infinite, NaN, huge and denormal too) and settings. Each result is compared with `ald_ext.reference`, "
        "to rounding, and bit for bit with the same call on plain copies of its arguments; nothing but what a step "
        f"writes to may change. {spoilt:,} of the calls have one argument that is to be refused, by an error that "
        "names the function, with nothing changed.",
        markdown_table(["function", "calls", "of them spoilt"], rows),
        f"`docs/results/fuzz.json`, {results['date'][:10]}: {results['machine']['cpu']}, {origin}. The calls took "
        f"{results['seconds']:.0f} s.",
        *(f"- {text}" for text in found),
    ]
    return "\n\n".join(paragraphs) + "\n"
