import { stripVTControlCharacters } from "node:util";
import type { Reporter, TestCase } from "vitest/node";

/** A reporter of vitest's that adds what differs to a failure's text, where the one for JSON, which must come after it, finds it. */
export default class Diffs implements Reporter {
  onTestCaseResult(test: TestCase): void {
    for (const error of test.result().errors ?? []) {
      if (error.diff !== undefined)
        error.stack = `${error.stack ?? error.message}\n${stripVTControlCharacters(error.diff)}`;
    }
  }
}
