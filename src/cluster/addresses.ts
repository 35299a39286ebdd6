import { DEFAULT_VARIANT } from "../api/names.ts";
import { setNameOf } from "../core/plan/set-name.ts";
import type { PoolPlan, VariantPlan } from "../core/plan/types.ts";
import { includesVersion, type KubeObject } from "../kube/object.ts";

/** An EndpointSlice of the Service of a pool's instances, as far as their addresses go. */
export interface InstanceSlice extends KubeObject {
  /** `IPv4`, `IPv6` */
  addressType: string;
  endpoints?: SliceEndpoint[] | null;
}

/** One pod that has an address and has not ended, whether it is ready or not. */
export interface SliceEndpoint {
  addresses: string[];
  conditions?: { terminating?: boolean };
  targetRef?: { kind?: string; name?: string; uid?: string };
}

/** One instance in a pod. */
export interface InstanceAddress {
  id: string;
  variant: string;
  url: string;
  pod: string;
  draining: boolean;
}

const FIRST_PORT = 8000;

/**
 * Where the instances are that these slices tell of. Ids follow from the name of the pod (variant and ordinal) and the variant's instances per pod,
 * so a pod that leaves keeps its id though the plan no longer holds it; only pods of variants that are gone are left out. Those that leave are
 * draining.
 */
export function addressesOf(plan: PoolPlan, slices: readonly InstanceSlice[]): InstanceAddress[] {
  const found = podsIn(slices).flatMap(({ name, address, leaves }) => {
    const place = placeOf(name, plan);
    if (!place) return [];
    const { variant, ordinal } = place;
    const host = address.includes(":") ? `[${address}]` : address;
    return slotsOf(variant, ordinal, leaves).map(({ index, port, leaving }) => ({
      id: variant.name === DEFAULT_VARIANT ? `${index}` : `${variant.name}-${index}`,
      variant: variant.name,
      url: `http://${host}:${port}`,
      pod: name,
      draining: leaving,
    }));
  });
  return found.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/**
 * Each pod once. Slices change one after the other: while a pod moves between two, or another of its name takes its place, both tell of it, and the
 * one that was written last is right. A pod with addresses of two families has a slice in each: IPv4 is taken, which every runtime listens on.
 */
function podsIn(slices: readonly InstanceSlice[]): { name: string; address: string; leaves: boolean }[] {
  const pods = new Map<string, { uid: string | undefined; leaves: boolean; addresses: Record<string, string> }>();
  for (const { addressType, endpoints } of [...slices].sort(newestFirst)) {
    for (const { addresses, conditions, targetRef } of endpoints ?? []) {
      const { kind, name, uid } = targetRef ?? {};
      const [address] = addresses;
      if (kind !== "Pod" || name === undefined || address === undefined) continue;
      const known = pods.get(name);
      const leaves = conditions?.terminating === true;
      if (!known) pods.set(name, { uid, leaves, addresses: { [addressType]: address } });
      else if (known.uid === uid) known.addresses[addressType] ??= address;
    }
  }
  return [...pods].flatMap(
    ([
      name,
      {
        leaves,
        addresses: { IPv4, IPv6 },
      },
    ]) => {
      const address = IPv4 ?? IPv6;
      return address === undefined ? [] : [{ name, address, leaves }];
    },
  );
}

function newestFirst({ metadata: a }: KubeObject, { metadata: b }: KubeObject): number {
  const { resourceVersion: ofA = "" } = a;
  const { resourceVersion: ofB = "" } = b;
  return Number(includesVersion(ofB, ofA)) - Number(includesVersion(ofA, ofB));
}

/** Variant and ordinal of a pod: `apex-0` is one of the default variant, `apex-code-0` one of `code`. */
function placeOf(pod: string, { pool, variants }: PoolPlan): { variant: VariantPlan; ordinal: number } | undefined {
  const [, set, ordinal] = /^(.+)-(\d+)$/.exec(pod) ?? [];
  const variant = variants.find(({ name }) => setNameOf(pool, name) === set);
  return variant && { variant, ordinal: Number(ordinal) };
}

/** The places of one pod that hold an instance, or still do although it is to go. */
function slotsOf({ gpu, instances }: VariantPlan, ordinal: number, podLeaves: boolean) {
  const perPod = gpu?.instancesPerPod ?? 1;
  const slots = Array.from({ length: perPod }, (_, slot) => {
    const index = ordinal * perPod + slot;
    return { index, port: FIRST_PORT + slot, leaving: podLeaves || index >= instances.length };
  });
  // A Packed pod that stays, with fewer instances than places: the rest holds nothing.
  const podStays = ordinal * perPod < instances.length;
  return podStays ? slots.filter(({ index }) => index < instances.length) : slots;
}
