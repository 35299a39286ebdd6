import { DEFAULT_VARIANT } from "../../api/names.ts";
import { revisionOf } from "./revision.ts";

/** A StatefulSet's controller puts its name, a dash and up to ten characters into a label of its pods, and a label holds 63. */
const MOST = 52;

/** StatefulSet of a variant, with which its pods' names begin. Of the longest names of pool and variant together it is shortened. */
export function setNameOf(pool: string, variant: string): string {
  const name = variant === DEFAULT_VARIANT ? pool : `${pool}-${variant}`;
  return name.length <= MOST ? name : `${name.slice(0, MOST - 6)}-${revisionOf({ name }).slice(0, 5)}`;
}
