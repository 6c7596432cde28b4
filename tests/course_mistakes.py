"""Mistakes that students make, planted into the reference solutions of the assignments."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """A change of the reference solution, and words that the test's message must hold."""

    part: str
    right: str
    wrong: str
    words: str


MISTAKES = {
    "ps1": [
        Mistake(
            "part-1",
            "return log_joint.flatten(1, 2).logsumexp(1)",
            "return log_joint.exp().sum((1, 2)).log()",
            "exp() of a very negative number is zero",
        ),
        Mistake(
            "part-2",
            "return inside.sum() - negative_entropy",
            "return inside.sum() + negative_entropy",
            "the entropies have the wrong sign",
        ),
        Mistake(
            "part-2",
            "torch.where(q > 0, q * log_joint, 0.0)",
            "q * log_joint",
            "holds nan",
        ),
        Mistake(
            "part-3",
            "(log_joint @ q_right).softmax(0)",
            "(log_joint.exp() @ q_right).log().softmax(0)",
            "Average their logarithms",
        ),
        Mistake(
            "part-4",
            "q_right = best_left(q_left, log_joint.T)",
            "q_right = best_left(old, log_joint.T)\n        old = q_left",
            "from the old q_left",
        ),
        Mistake("part-5", "penalty[-1, -1] = 0", "pass", "also punishes the biases"),
        Mistake(
            "part-6",
            "ids.bincount(minlength=len(colors)).double()",
            "torch.ones(len(colors))",
            "share_kept",
        ),
    ],
    "ps2": [
        Mistake(
            "part-1", "colors.mean(0, keepdim=True)", "0 * colors[:1]", "unlabelled pixel is black"
        ),
        Mistake("part-2", "(pixels - colors).abs()", "(pixels - colors) ** 2", "Euclidean"),
        Mistake(
            "part-3", "two[..., 1] - two[..., 0]", "two[..., -1] - two[..., 0]", "second nearest"
        ),
        Mistake("part-4", "torch.minimum(least, to_last)", "to_last", "the last choice only"),
        Mistake("part-4", ".abs() * weights).sum(1)", ".abs()).sum(1)", "weights"),
        Mistake(
            "part-5",
            "shares[i, j] = ((found != i) & (found != j)).double().mean()",
            "shares[i, j] = ((found != i) & (found != j)).double().sum()",
            "divides by their number",
        ),
        Mistake(
            "part-6",
            "(first != second) & (first != 255)",
            "(first != 255)",
            "also those of one class",
        ),
    ],
    "ps3": [
        Mistake(
            "part-1", "residual = residual - book[chosen]", "pass", "what the first stage left"
        ),
        Mistake("part-2", "torch.stack(codes).sum(0)", "torch.stack(codes).mean(0)", "mean over"),
        Mistake(
            "part-3",
            "(commitment, left - codes.detach())",
            "(commitment, left - codes)",
            "the commitment moves the codes too",
        ),
        Mistake(
            "part-3",
            "torch.where(size <= delta, size.square() / 2, delta * (size - delta / 2))",
            "size.square() / 2",
            "the Huber function is linear",
        ),
        Mistake(
            "part-4",
            "(counts + epsilon) / (total + len(counts) * epsilon) * total",
            "counts",
            "the counts are not smoothed",
        ),
        Mistake("part-5", "stage[keep].bincount", "stage.flatten().bincount", "perplexity"),
        Mistake(
            "part-6",
            "(classes == mask)[labelled]",
            "(classes == mask)",
            "unlabelled pixels count as wrong",
        ),
    ],
    "ps4": [
        Mistake("part-1", ".mean(-1) >= 0.5", ".mean(-1) > 0", "the rule of lesson 06"),
        Mistake("part-1", "counts.argmax(-1), guess)", "guess, guess)", "only for cells without"),
        Mistake(
            "part-2",
            "return -((1 - smoothing) * true + smoothing * log_p.mean(1)).mean()",
            "return -true.mean()",
            "there is no smoothing",
        ),
        Mistake("part-3", "scores.softmax(0)", "scores", "Take their soft-max"),
        Mistake("part-4", "before < p - 1e-12", "before + ordered <= p", "that reaches p"),
        Mistake(
            "part-5", "(counts / len(x)).log() - distance / 2", "-distance / 2", "class_scores"
        ),
        Mistake("part-6", "top_p(logits, p)", "logits.softmax(1)", "p changes nothing"),
    ],
}
