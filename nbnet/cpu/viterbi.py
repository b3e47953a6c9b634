"""The best sequence of tags: Viterbi's algorithm."""

from __future__ import annotations

from ..jit import cpu_kernel


@cpu_kernel
def viterbi(scores, starts, first, transitions, total, previous, tags):
    """Tags t of each sentence that maximize ``first[t_0] + sum scores[i, t_i] + sum transitions[t_(i-1), t_i]``.

    Parameters
    ----------
    scores : float64 (n_tokens, n_tags)
    starts : int64 (n_sentences + 1,)
        Sentence s has the tokens starts[s], ..., starts[s + 1] - 1.
    first : float64 (n_tags,)
        -inf for a tag that no sentence may begin with.
    transitions : float64 (n_tags, n_tags)
        From the row's tag to the column's; -inf for what may not follow.
    total : float64 (n_tokens, n_tags)
        Scratch: score of the best sequence that ends in this token and tag.
    previous : int32 (n_tokens, n_tags)
        Scratch: the tag before it in that sequence.
    tags : int32 (n_tokens,)
        Overwritten. Of equal sequences, that of the lower tags from the end on.

    Notes
    -----
    Cost: n_tokens n_tags^2 additions.
    Source: Viterbi, Error bounds for convolutional codes and an asymptotically optimum decoding algorithm, 1967.
    """
    n_tags = first.size
    for s in range(starts.size - 1):
        begin, end = starts[s], starts[s + 1]
        for i in range(begin, end):
            for j in range(n_tags):
                best, argument = first[j], 0
                if i > begin:
                    best = total[i - 1, 0] + transitions[0, j]
                    for k in range(1, n_tags):
                        score = total[i - 1, k] + transitions[k, j]
                        if score > best:
                            best, argument = score, k
                total[i, j] = best + scores[i, j]
                previous[i, j] = argument
        if end > begin:
            tag = 0
            for j in range(1, n_tags):
                if total[end - 1, j] > total[end - 1, tag]:
                    tag = j
            for i in range(end - 1, begin - 1, -1):
                tags[i] = tag
                tag = previous[i, tag]
