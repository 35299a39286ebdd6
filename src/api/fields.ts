import { z } from "zod";

/**
 * A CEL rule as Kubernetes stores it in the CRD. `message` names the field and says what to write instead; for a rule that
 * should name the very item see `each`.
 */
export interface Rule {
  rule: string;
  message: string;
  /** Path of the field at fault, relative to where the rule stands, such as `.model.uri`; without list indices. */
  fieldPath?: string;
}

/** Puts rules on a schema: for `.meta()`, which passes them unchanged into the CRD. */
export const rules = (...list: Rule[]) => ({ "x-kubernetes-validations": list });

/** A list keyed by one field: unique, and merged by server-side apply. */
export const keyedBy = (key: string) => ({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key] });

/** A string of `min` to `max` characters (Unicode code points, as Kubernetes counts them; JavaScript's length counts UTF-16 units). */
export const text = (max: number, min = 0) =>
  z
    .string()
    .refine((value) => value.length <= max || [...value].length <= max, { error: `write at most ${max} characters` })
    .refine((value) => value.length >= min, {
      error: `write at least ${min} ${min === 1 ? "character" : "characters"}`,
    })
    .meta({ maxLength: max, ...(min > 0 ? { minLength: min } : {}) });

/** A string that `pattern` matches (RE2 syntax: no look-around, no flags); `form` says in words what to write. */
export const formed = (max: number, pattern: RegExp, form: string) =>
  text(max).regex(pattern, { error: `write ${form}` });

/** A map of at most `max` entries. */
export const mapOf = <V extends z.ZodType>(max: number, value: V) =>
  z
    .record(z.string(), value)
    .refine((map) => Object.keys(map).length <= max, { error: `write at most ${max} entries` })
    .meta({ maxProperties: max });

/** Name of another object in the pool's namespace. */
export const objectName = () =>
  formed(253, /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, "the name of an object: lower-case letters, digits, '-' and '.'");

/** A duration in whole seconds. */
export const seconds = (min: number, max: number) => z.int32().min(min).max(max);

const AMOUNT = 'write an amount such as "12Gi", "500m" or 2';

/** An amount as Kubernetes writes it: `12Gi`, `500m`, `2`. */
export const Quantity = z.union(
  [
    z.int().min(0),
    text(32).regex(/^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$/, { error: AMOUNT }),
  ],
  { error: AMOUNT },
);
export type Quantity = z.infer<typeof Quantity>;

/** Part of a pod template, merged over what the operator makes. The API server checks its content when the pod is made. */
export const PodTemplate = z.looseObject({});

/** A key of a Secret in the pool's namespace. */
export const SecretKeyRef = z.strictObject({
  name: objectName().describe("Name of a Secret in the pool's namespace."),
  key: formed(253, /^[-._a-zA-Z0-9]+$/, "a key of that Secret: letters, digits, '-', '_' and '.'").describe(
    "Key inside the Secret.",
  ),
});
