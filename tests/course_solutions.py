"""Right solutions of the assignments that differ from the reference: loops, and NumPy for torch."""

OTHER = {}

OTHER["ps1"] = {
    "part-1": """
import numpy as np


def log_evidence(log_prior, log_likelihood):
    found = np.empty((log_prior.shape[0], log_likelihood.shape[2]))
    for x in range(found.shape[0]):
        for c in range(found.shape[1]):
            logs = np.asarray(log_prior[x] + log_likelihood[:, :, c]).ravel()
            found[x, c] = logs.max() + np.log(np.exp(logs - logs.max()).sum())
    return found
""",
    "part-2": """
def product_bound(q_left, q_right, log_joint):
    total = 0.0
    for a in range(len(q_left)):
        for b in range(len(q_right)):
            q = float(q_left[a]) * float(q_right[b])
            if q > 0:
                total += q * (float(log_joint[a, b]) - np.log(q))
    return total
""",
    "part-3": """
def best_left(q_right, log_joint):
    mean = np.asarray(log_joint) @ np.asarray(q_right)
    q = np.exp(mean - mean.max())
    return q / q.sum()
""",
    "part-4": """
def ascend(log_joint, sweeps):
    a, b = log_joint.shape
    left, right, bounds = np.ones(a) / a, np.ones(b) / b, []
    while len(bounds) < sweeps:
        left = best_left(right, log_joint)
        right = best_left(left, np.asarray(log_joint).T)
        bounds.append(product_bound(left, right, log_joint))
    return left, right, bounds
""",
    "part-5": """
def regression_inverse(colors, weights, strength):
    colors, weights = np.asarray(colors), np.asarray(weights)
    k, d = colors.shape
    left, right = np.zeros((d + 1, d + 1)), np.zeros((d + 1, k))
    for i in range(k):
        row = np.append(colors[i], 1.0)
        left += weights[i] * np.outer(row, row)
        right[:, i] = weights[i] * row
    for i in range(d):
        left[i, i] += strength
    return np.linalg.inv(left) @ right
""",
    "part-6": """
def share_kept(mask, colors, strength):
    counts = [int((mask == k).sum()) for k in range(len(colors))]
    gamma = regression_inverse(colors, torch.tensor(counts), strength)
    good = 0
    for k in range(len(colors)):
        scores = np.append(np.asarray(colors[k]), 1.0) @ gamma
        good += counts[k] * (scores.argmax() == k)
    return good / sum(counts)
""",
}

OTHER["ps2"] = {
    "part-1": """
def paint(masks, colors):
    masks, colors = np.asarray(masks), np.asarray(colors)
    painted = np.empty((masks.shape[0], colors.shape[1], *masks.shape[1:]))
    for d in range(colors.shape[1]):
        painted[:, d] = colors[:, d].mean()
        for k in range(len(colors)):
            painted[:, d][masks == k] = colors[k, d]
    return painted
""",
    "part-2": """
def far(pictures, color, weights):
    return sum(
        float(weights[d]) * np.abs(np.asarray(pictures)[:, d] - float(color[d]))
        for d in range(len(weights))
    )


def nearest(pictures, colors, weights):
    best, least = None, None
    for k, color in enumerate(colors):
        distance = far(pictures, color, weights)
        if best is None:
            best, least = np.zeros(distance.shape, dtype=int), distance
        better = distance < least
        best, least = np.where(better, k, best), np.where(better, distance, least)
    return best
""",
    "part-3": """
def margin(pictures, colors, weights):
    distances = np.stack([far(pictures, color, weights) for color in colors])
    distances.sort(axis=0)
    return distances[1] - distances[0]
""",
    "part-4": """
def farthest_points(candidates, count, weights):
    points, w = np.asarray(candidates), np.asarray(weights)
    chosen = [0]
    while len(chosen) < count:
        score = [min((w * np.abs(p - points[c])).sum() for c in chosen) for p in points]
        chosen.append(score.index(max(score)))
    return chosen
""",
    "part-5": """
def third_class(colors, weights, steps):
    k = len(colors)
    shares = np.zeros((k, k))
    for i in range(k):
        for j in range(i):
            for s in range(1, steps + 1):
                blend = colors[i] + s / (steps + 1) * (colors[j] - colors[i])
                won = int(nearest(blend[None, :, None, None], colors, weights)[0, 0, 0])
                shares[i, j] += (won != i and won != j) / steps
    return shares + shares.T
""",
    "part-6": """
def border_cost(mask, colors, weights, steps):
    shares = third_class(colors, weights, steps)
    costs = []
    height, width = mask.shape
    rows = mask.tolist()
    for i in range(height):
        for j in range(width):
            for other in ((i, j + 1), (i + 1, j)):
                if other[0] < height and other[1] < width:
                    a, b = rows[i][j], rows[other[0]][other[1]]
                    if a != b and a != 255 and b != 255:
                        costs.append(shares[a, b])
    return np.mean(costs) if costs else 0
""",
}

OTHER["ps3"] = {
    "part-1": """
def residual_tokens(vectors, books):
    vectors, books = np.array(vectors), np.asarray(books)
    b, c, h, w = vectors.shape
    flat = np.moveaxis(vectors, 1, -1).reshape(-1, c)
    tokens = np.empty((len(books), len(flat)), dtype=int)
    for n, left in enumerate(flat):
        for r, book in enumerate(books):
            tokens[r, n] = np.linalg.norm(left - book, axis=1).argmin()
            left = left - book[tokens[r, n]]
    return np.moveaxis(tokens.reshape(-1, b, h, w), 0, 1)
""",
    "part-2": """
def look_up(tokens, books):
    tokens, books = np.asarray(tokens), np.asarray(books)
    total = sum(books[r][tokens[:, r]] for r in range(len(books)))
    return np.moveaxis(total, -1, 1)
""",
    "part-3": """
def residual_loss(vectors, books, commitment, delta):
    tokens = residual_tokens(vectors.detach().numpy(), books.detach().numpy())
    loss, b = 0, vectors.shape[0]
    for n in range(b):
        for i in range(vectors.shape[2]):
            for j in range(vectors.shape[3]):
                v = vectors[n, :, i, j]
                for r in range(len(books)):
                    e = books[r, int(tokens[n, r, i, j])]
                    h = torch.nn.functional.huber_loss
                    loss = loss + h(e, v.detach(), reduction="sum", delta=delta)
                    loss = loss + commitment * h(v, e.detach(), reduction="sum", delta=delta)
                    v = v - e.detach()
    return loss / vectors.numel()
""",
    "part-4": """
def follow(counts, sums, vectors, tokens, decay, epsilon):
    number, total = np.array(counts) * decay, np.array(sums) * decay
    for vector, token in zip(np.asarray(vectors), np.asarray(tokens)):
        number[token] += 1 - decay
        total[token] += (1 - decay) * vector
    codes = np.empty_like(total)
    for k in range(len(number)):
        share = (number[k] + epsilon) / (number.sum() + len(number) * epsilon)
        codes[k] = total[k] / (share * number.sum())
    return codes, number, total
""",
    "part-5": """
def perplexity(tokens, vocab_size, keep):
    found = []
    for r in range(tokens.shape[1]):
        _, number = np.unique(np.asarray(tokens)[:, r][np.asarray(keep)], return_counts=True)
        p = number / number.sum()
        found.append(np.exp(-(p * np.log(p)).sum()))
    return np.array(found)
""",
    "part-6": """
def kept_by_stages(mask, colors, books):
    vectors = np.asarray(to_patches(paint(mask, colors))) - 0.5
    tokens = residual_tokens(vectors, books)
    mask, colors = np.asarray(mask), np.asarray(colors)
    found = []
    for r in range(len(books)):
        picture = np.asarray(from_patches(look_up(tokens[:, : r + 1], books[: r + 1]))) + 0.5
        distance = [((picture[0] - c[:, None, None]) ** 2).sum(0) for c in colors]
        right = np.argmin(distance, axis=0) == mask
        found.append(right[mask != 255].mean())
    return found
""",
}

OTHER["ps4"] = {
    "part-1": """
def cell_targets(masks, guess, stride):
    filled = np.array(masks)
    b, h, w = guess.shape
    keep = np.zeros((b, h, w), dtype=bool)
    for n in range(b):
        for i in range(h):
            for j in range(w):
                place = np.s_[n, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
                known = filled[place][filled[place] != 255]
                keep[n, i, j] = 2 * len(known) >= stride**2
                if len(known):
                    ids, count = np.unique(known, return_counts=True)
                    fill = ids[count.argmax()]
                else:
                    fill = int(guess[n, i, j])
                filled[place][filled[place] == 255] = fill
    return filled, keep
""",
    "part-2": """
def token_loss(logits, tokens, keep, smoothing):
    logits, tokens = np.asarray(logits), np.asarray(tokens)
    vocab, losses = logits.shape[1], []
    for b, i, j in np.argwhere(np.asarray(keep)):
        cell = logits[b, :, i, j] - logits[b, :, i, j].max()
        log_p = cell - np.log(np.exp(cell).sum())
        target = np.full(vocab, smoothing / vocab)
        target[tokens[b, i, j]] += 1 - smoothing
        losses.append(-(target * log_p).sum())
    return np.mean(losses) if losses else 0.0
""",
    "part-3": """
def aggregate(maps, scores):
    weights = np.exp(np.asarray(scores))
    weights = weights / weights.sum()
    total = 0
    for level, weight in zip(maps, weights):
        block = np.ones((maps[0].shape[2] // level.shape[2], maps[0].shape[3] // level.shape[3]))
        total = total + weight * np.kron(np.asarray(level), block)
    return total
""",
    "part-4": """
def top_p(logits, p):
    logits = np.asarray(logits)
    found = np.zeros_like(logits)
    for b, i, j in np.ndindex(logits.shape[0], *logits.shape[2:]):
        share = np.exp(logits[b, :, i, j] - logits[b, :, i, j].max())
        share = share / share.sum()
        total = 0
        for v in np.argsort(-share, kind="stable"):
            found[b, v, i, j] = share[v]
            total += share[v]
            if total >= p:
                break
        found[b, :, i, j] /= total
    return found
""",
    "part-5": """
def class_scores(pixels, ids, num_classes, ridge, pictures):
    pixels, ids, pictures = np.asarray(pixels), np.asarray(ids), np.asarray(pictures)
    known = ids != 255
    pixels, ids = pixels[known], ids[known]
    covariance = ridge * np.eye(pixels.shape[1])
    means = {k: pixels[ids == k].mean(0) for k in set(ids.tolist())}
    for x, k in zip(pixels, ids.tolist()):
        covariance = covariance + np.outer(x - means[k], x - means[k]) / len(ids)
    b, _, h, w = pictures.shape
    scores = np.full((b, num_classes, h, w), -np.inf)
    for k, mean in means.items():
        gap = pictures - mean[:, None, None]
        distance = np.einsum("bdhw,de,behw->bhw", gap, np.linalg.inv(covariance), gap)
        scores[:, k] = np.log((ids == k).mean()) - distance / 2
    return scores
""",
    "part-6": """
def segment(logits, p, codes, pixels, ids, num_classes, ridge):
    probability = top_p(logits, p)
    patches = np.tensordot(probability, np.asarray(codes), axes=(1, 0))
    pictures = from_patches(np.moveaxis(patches, -1, 1).copy())
    return class_scores(pixels, ids, num_classes, ridge, pictures).argmax(1)
""",
}
