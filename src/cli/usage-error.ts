/** Wrong usage that only the command itself can see: ends with exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
