import { InvalidArgumentError } from "commander";
import { dump } from "js-yaml";

export const OUTPUTS = ["yaml", "json"] as const;
export type Output = (typeof OUTPUTS)[number];

/** Parses the value of `-o`. */
export function outputFormat(text: string): Output {
  const output = OUTPUTS.find((known) => known === text);
  if (output === undefined) throw new InvalidArgumentError(`write ${OUTPUTS.join(" or ")}.`);
  return output;
}

/** Plain data as a command prints it, with its line end. */
export function format(value: unknown, output: Output): string {
  return output === "json" ? `${JSON.stringify(value, null, 2)}\n` : dump(value, { lineWidth: 120, noRefs: true });
}
