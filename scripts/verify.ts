/** `npm run verify`: what a commit must pass without running a test. */
import { runChecks } from "./checks.ts";

for (const { name, ok, output } of await runChecks()) {
  console.log(`${ok ? "ok    " : "FAILED"} ${name}`);
  if (!ok) {
    console.log(output);
    process.exitCode = 1;
  }
}
