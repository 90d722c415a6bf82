"""What a PASS promises and what it does not: one table, for pages and for the documentation."""

from saebench.records.run import Run
from saebench.records.verdict import Verdict
from saebench.report.page.markup import Markup, tag

PAGE = "docs/what-pass-means.md"
PROMISES = (
    (
        "the run",
        "Every case with a deciding gate was judged, for every SAE, and every gate passed. A part "
        "of a run is INCOMPLETE, whatever it found.",
        "Anything about a case that is SKIPPED: it does not apply to these texts or this model, "
        "and its line says why.",
    ),
    (
        "the gates",
        "They are those of the threshold file that the run names, and nothing in the SAE's files "
        "switches one off.",
        "That the limits are yours. Whoever starts the run chooses thresholds, texts and options; "
        "the result records them.",
    ),
    (
        "uncertainty",
        "The whole interval of each deciding metric lies within its limit: by chance alone, an SAE "
        "beyond one limit passes that gate in about 1 of 40 runs or fewer.",
        "That the SAE is good. A limit is the least that is asked; compare with a baseline to ask "
        "for more.",
    ),
    (
        "the texts",
        "Intervals are over at least 30 independent documents, drawn by seed from all of the "
        "source; copies and near-copies count once.",
        "Other texts: another language, code, chat, another time. Judge on those that you care "
        "about.",
    ),
    (
        "training texts",
        "Where the SAE's files or --sae-trained-on name its training texts, the overlap with the "
        "judged ones was measured and is stated.",
        "That it did not train on the judged texts, where nobody says what it trained on.",
    ),
    (
        "the model",
        "With the SAE's output in the activation's place, predictions stay near the model's own, "
        "on these weights, in this precision.",
        "Another revision, a fine-tuned or a quantised model.",
    ),
    (
        "where",
        "Also at the worst tenth of tokens by frequency, the worst type, position and single token "
        "of 0.25% of the text, and up to the context that the SAE claims.",
        "Rarer things: one concept erased, one token in 500 gone wrong. Position 0 and special "
        "tokens are not substituted.",
    ),
    (
        "the features",
        "They are sparse, they recur across texts, and the output is better than PCA and a search "
        "over random directions give with as many components.",
        "That they are interpretable, complete, monosemantic or useful for steering or probing.",
    ),
    (
        "alone or together",
        "Each SAE was judged alone in its place.",
        "Several SAEs in place at once: pairs are reported by propagation, and decide nothing.",
    ),
    (
        "intent",
        "The SAEs of the red team that nobody should release are kept out, but for those that its "
        "page names.",
        "Proof against somebody who trains an SAE against these very metrics.",
    ),
)
"""Rows: what it is about, what a PASS says, what it does not say."""


def meaning(run: Run) -> Markup:
    """Return the folded table below a run's verdict."""
    rows = [
        tag("tr", tag("th", about, scope="row"), tag("td", says), tag("td", silent))
        for about, says, silent in PROMISES
    ]
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("", "A PASS says", "It does not say"))
    )
    asks = "What this PASS means" if run.verdict is Verdict.PASS else "What a PASS would mean"
    return tag(
        "details",
        tag("summary", f"{asks}, and what it does not"),
        tag("table", tag("thead", head), tag("tbody", *rows)),
        tag("p", f"In the documentation: {PAGE}", class_="note"),
        class_="meaning",
    )
