#!/usr/bin/env node
import { basename } from "node:path";
import { stderr, stdin, stdout } from "node:process";
import type { CliIo, Terminal } from "./io.ts";
import { runCli, serves } from "./program.ts";
import { packageVersion } from "./version.ts";

/** `llmpool` and `kubectl llmpool`: the process around a command. */
const abort = new AbortController();
const hurry = new AbortController();
const onSignal = () => (abort.signal.aborted ? hurry : abort).abort(new Error("interrupted"));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal);
const args = process.argv.slice(2);
for (const stream of [stdout, stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    // Ctrl-C ends the `tee` behind a pool at once, and the pool has still to drain.
    if (serves(args)) return;
    // `llmpool status | head -1`: whoever read has enough.
    if (error.code !== "EPIPE") throw error;
    process.exit();
  });
}

const io: CliIo = {
  stdout: (text) => void stdout.write(text),
  stderr: (text) => void stderr.write(text),
  env: process.env,
  cwd: process.cwd(),
  kubectl: basename(process.argv[1] ?? "").startsWith("kubectl-"),
  signal: abort.signal,
  hurry: hurry.signal,
  ...(stdout.isTTY && { terminal: terminalOf(stdout) }),
  stdin: { stream: stdin, terminal: stdin.isTTY === true },
  setExitCode: (code) => {
    process.exitCode = code;
  },
};
await runCli(args, io, packageVersion());

function terminalOf(tty: typeof stdout): Terminal {
  return {
    write: (text) => void tty.write(text),
    columns: () => tty.columns || 80,
    rows: () => tty.rows || 24,
    onResize(listener) {
      tty.on("resize", listener);
      return () => tty.off("resize", listener);
    },
    color: !process.env.NO_COLOR && process.env.TERM !== "dumb",
  };
}
