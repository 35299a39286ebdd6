import type { Rule } from "./fields.ts";

/**
 * A rule that each item of a list, or each key of a map, keeps or breaks by itself. Kubernetes gets one rule over all of them, whose message
 * names none of them (building a text is too dear for a CRD); `validate` asks the same condition of each, and names those that break it.
 */
export interface ItemRule {
  /** CEL for the list or map: `self`, `self.roles`. */
  of: string;
  /** What `holds` calls an item, or a key of the map. */
  as: string;
  holds: string;
  /** What an item is: `role`. Absent for the keys of a map, which name themselves. */
  kind?: string;
  /** The field of an item that is at fault: `instance`. */
  field?: string;
  /** What the field holds is worth telling. */
  isTold?: boolean;
  /** Beginning of the message for Kubernetes: `roles[].instance`. */
  label: string;
  /** The rest of it, with the cure. */
  says: string;
  fieldPath?: string;
  /** The names that a wrong one may have been meant for. */
  known?: (self: unknown) => readonly string[];
}

const ITEM_RULES = new Map<Rule["message"], ItemRule>();

export function each(item: ItemRule): Rule {
  const { of, as, holds, label, says, fieldPath } = item;
  const rule = `${of === "self" ? "" : `!has(${of}) || `}${of}.all(${as}, ${holds})`;
  const message = `${label} ${says}`;
  ITEM_RULES.set(message, item);
  return { rule, message, ...(fieldPath !== undefined && { fieldPath }) };
}

/** The condition on one item behind a rule of `each`. */
export const itemRuleOf = ({ message }: Rule): ItemRule | undefined => ITEM_RULES.get(message);
