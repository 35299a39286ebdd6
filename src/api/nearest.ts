/**
 * The candidate that differs from `word` by the fewest edits, when that is few enough to be a slip of the finger; else the only one that has
 * all its words (`max_tokens`: `max_new_tokens`).
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let fewest = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    // Never fewer than the lengths differ by; and the word may be a caller's, of any length.
    if (Math.abs(word.length - candidate.length) >= fewest) continue;
    const edits = distance(word.toLowerCase(), candidate.toLowerCase());
    if (edits < fewest) [best, fewest] = [candidate, edits];
  }
  if (best !== undefined || word.length > 64) return best;
  const words = wordsOf(word);
  const longer = candidates.filter((candidate) => words.every((one) => wordsOf(candidate).includes(one)));
  return longer.length === 1 ? longer[0] : undefined;
}

/** Of snake_case, kebab-case and camelCase. */
function wordsOf(name: string): string[] {
  return name
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase()
    .split(/[_-]/);
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
