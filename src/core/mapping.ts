/** Who goes where, without state. The hash of agents without a role is in src/api, where clients have it too. */

export { agentKey, hashAgent, jumpHash } from "../api/agent-hash.ts";

/**
 * Indices of the instances that role `k` of `roles` (both counted among the roles of one variant that have no instance of their own) owns
 * out of `instances`: every i with i mod roles = k, else k mod instances. Empty only when there are no instances.
 */
export function ownersOf(k: number, roles: number, instances: number): number[] {
  if (instances === 0) return [];
  if (k >= instances) return [k % instances];
  const owned: number[] = [];
  for (let i = k; i < instances; i += roles) owned.push(i);
  return owned;
}
