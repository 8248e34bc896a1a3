// Percentiles out of a histogram's buckets, by the rule of Prometheus' histogram_quantile.

/** Bucket by bucket, what `now` has more than `before`. */
export function bucketsSince(now, before) {
  return now.map((count, place) => count - before[place]);
}

/**
 * The value that a share `q` of the observations does not exceed, or null without any. `bounds` are the upper bounds of
 * the buckets, and `counts` has one more for what is longer. Within a bucket the observations are taken as evenly
 * spread. What lies beyond the last bound is told as that bound: nothing more is known.
 */
export function quantile(bounds, counts, q) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  const rank = q * total;
  let below = 0;
  for (const [place, bound] of bounds.entries()) {
    const count = counts[place];
    if (count > 0 && below + count >= rank) {
      const lower = place === 0 ? 0 : bounds[place - 1];
      return lower + (bound - lower) * ((rank - below) / count);
    }
    below += count;
  }
  return bounds.at(-1);
}
