import { z } from "zod";

/** A CEL rule as Kubernetes stores it in the CRD. `message` names the field and says what to write instead. */
export interface Rule {
  rule: string;
  message: string;
  /** CEL that makes the message out of `self`; `message` stays the fall-back. */
  messageExpression?: string;
  /** Path of the field at fault, relative to where the rule stands, such as `.model.uri`; without list indices. */
  fieldPath?: string;
  reason?: "FieldValueInvalid" | "FieldValueForbidden" | "FieldValueRequired" | "FieldValueDuplicate";
}

/** Puts rules on a schema, for `.meta()`: they pass unchanged into the CRD. */
export const rules = (...list: Rule[]) => ({ "x-kubernetes-validations": list });

/** A list keyed by one field: unique, and merged by server-side apply. */
export const keyedBy = (key: string) => ({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key] });

const codePoints = (text: string): number => {
  let count = 0;
  for (const _ of text) count++;
  return count;
};

/** A string of at most `max` Unicode code points, counted as Kubernetes counts them (JavaScript's own length counts UTF-16 units). */
export const text = (max: number, min = 0) =>
  z
    .string()
    .refine((value) => codePoints(value) <= max, { error: `is longer than ${max} characters`, abort: true })
    .refine((value) => codePoints(value) >= min, { error: `is shorter than ${min} characters`, abort: true })
    .meta({ maxLength: max, ...(min > 0 ? { minLength: min } : {}) });

/** A string of at most `max` characters in the form that `pattern` (RE2 syntax, no look-around, no flags) gives; `form` is its cure in words. */
export const formed = (max: number, pattern: RegExp, form: string) =>
  text(max).regex(pattern, { error: `must be ${form}` });

/** Lower-case name of an object in the pool's namespace: Secret, claim, class. */
export const objectName = () =>
  formed(253, /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, "the name of an object: lower-case letters, digits, '-' and '.'");

/** An amount as Kubernetes writes it: `12Gi`, `500m`, `2`. */
export const Quantity = z
  .union([
    z.int().min(0),
    formed(
      32,
      /^([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$/,
      'a quantity such as "12Gi", "500m" or "2"',
    ),
  ])
  .describe('An amount as in any Kubernetes object: "12Gi", "500m", 2.');
export type Quantity = z.infer<typeof Quantity>;

/** Part of a pod template that is merged over what the operator makes. Its content is checked by the API server when the pod is made. */
export const PodTemplate = z.looseObject({});

export const seconds = (min: number, max: number) => z.int32().min(min).max(max);

/** A key of a Secret in the pool's namespace. */
export const SecretKeyRef = z.strictObject({
  name: objectName().describe("Name of a Secret in the pool's namespace."),
  key: formed(253, /^[-._a-zA-Z0-9]+$/, "a key of that Secret").describe("Key inside the Secret."),
});
