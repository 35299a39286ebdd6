import { ERRORS } from "../../src/lib/errors.ts";

/** The error codes as a table, from the one that answers are made of. */
export function errorTable(): string {
  const rows = Object.entries(ERRORS).map(
    ([code, { status, type, retry, when }]) =>
      `| \`${code}\` | ${status} | \`${type}\` | ${retry ? "yes" : "no"} | ${when} |`,
  );
  return ["| code | status | type | worth a retry | when |", "| --- | --- | --- | --- | --- |", ...rows].join("\n");
}
