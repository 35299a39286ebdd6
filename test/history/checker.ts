/** What happened in one run, in the order of one clock, as its clients and its runtime saw it. */
export type Entry =
  | { kind: "admitted"; at: number; id: string; buckets: string[]; reserved: number }
  /** Somebody begins to settle it. */
  | { kind: "settling"; at: number; id: string }
  | { kind: "seen"; at: number; bucket: string; spent: number; reserved: number };

export interface History {
  limits: ReadonlyMap<string, number>;
  entries: readonly Entry[];
  /** What the runtime counted for each request that reached it. */
  used: ReadonlyMap<string, number>;
  /** The buckets at the end, when nothing runs. */
  end: ReadonlyMap<string, { spent: number; reserved: number }>;
}

/** What is wrong in a history; empty when budgets held and every admitted request was settled exactly once, by the runtime's own count. */
export function check({ limits, entries, used, end }: History): string[] {
  const problems: string[] = [];
  const admitted = new Map<string, { buckets: string[]; reserved: number; settling: boolean }>();
  for (const entry of entries) {
    if (entry.kind === "settling") {
      const request = admitted.get(entry.id);
      if (request) request.settling = true;
    } else if (entry.kind === "seen") {
      const limit = limits.get(entry.bucket) ?? 0;
      if (entry.spent + entry.reserved > limit) {
        problems.push(`${entry.bucket} shows ${entry.spent} + ${entry.reserved} of ${limit}`);
      }
    } else {
      admitted.set(entry.id, { ...entry, settling: false });
      // At this moment the store must have held at least this much.
      for (const bucket of entry.buckets) {
        let least = 0;
        for (const [id, request] of admitted) {
          if (request.buckets.includes(bucket)) least += request.settling ? (used.get(id) ?? 0) : request.reserved;
        }
        const limit = limits.get(bucket) ?? 0;
        if (least > limit) problems.push(`${bucket} held ${least} of ${limit} when ${entry.id} was admitted`);
      }
    }
  }
  for (const [bucket, { spent, reserved }] of end) {
    let counted = 0;
    for (const [id, { buckets }] of admitted) if (buckets.includes(bucket)) counted += used.get(id) ?? 0;
    if (reserved !== 0) problems.push(`${bucket} has ${reserved} reserved at the end`);
    if (spent !== counted) problems.push(`${bucket} has ${spent} spent, the runtime counted ${counted}`);
  }
  for (const id of used.keys()) if (!admitted.has(id)) problems.push(`${id} ran and was never admitted`);
  return problems;
}
