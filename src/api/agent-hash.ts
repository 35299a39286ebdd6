import { createHash } from "node:crypto";

/**
 * Where an agent without a role goes: the same answer in every process, replica, language and restart, so that a client can know it
 * without asking. The published test vectors are in src/core/published/mapping-vectors.json.
 */

/** First 8 bytes, big-endian, of the SHA-256 of the id's UTF-8 bytes. */
export function agentKey(agentId: string): bigint {
  return createHash("sha256").update(agentId, "utf8").digest().readBigUInt64BE(0);
}

/** Index, 0 to `instances` - 1, of the default variant's instance that an agent without a role goes to. `instances` must be at least 1. */
export function hashAgent(agentId: string, instances: number): number {
  return jumpHash(agentKey(agentId), instances);
}

/** Jump consistent hash (Lamping and Veach, arXiv:1406.2294): from n to n + 1 buckets, only 1 in n + 1 keys moves, always to the new one. */
export function jumpHash(key: bigint, buckets: number): number {
  if (!Number.isSafeInteger(buckets) || buckets < 1) throw new RangeError(`buckets must be at least 1, not ${buckets}`);
  let state = BigInt.asUintN(64, key);
  let bucket = 0;
  let next = 0;
  while (next < buckets) {
    bucket = next;
    state = BigInt.asUintN(64, state * 2_862_933_555_777_941_757n + 1n);
    next = Math.floor((bucket + 1) * (2 ** 31 / (Number(state >> 33n) + 1)));
  }
  return bucket;
}
