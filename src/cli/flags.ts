import { resolve } from "node:path";
import { InvalidArgumentError, Option } from "commander";

/** A repeatable `--flag NAME=DIR`: collects what was given, folders as absolute paths from `cwd`. */
export function dirs(flag: string, description: string, cwd: string): Option {
  const collect = (text: string, before: ReadonlyMap<string, string>): ReadonlyMap<string, string> => {
    const [name = "", ...rest] = text.split("=");
    const dir = rest.join("=");
    if (name === "" || dir === "") throw new InvalidArgumentError("write NAME=DIR.");
    return new Map([...before, [name, resolve(cwd, dir)]]);
  };
  return new Option(flag, description).argParser(collect).default(new Map(), "none");
}

/** A TCP port; 0 lets the operating system choose. */
export function portNumber(text: string): number {
  const port = Number(text);
  if (/^\d{1,5}$/.test(text) && port <= 65_535) return port;
  throw new InvalidArgumentError("write a port from 0 to 65535.");
}

/** For a repeatable `--flag NAME=VALUE` whose names are known. */
export function knownNames<N extends string>(names: readonly N[]) {
  return (text: string, before: Readonly<Partial<Record<N, string>>>): Partial<Record<N, string>> => {
    const at = text.indexOf("=");
    const name = names.find((known) => known === text.slice(0, at));
    if (name === undefined || at === text.length - 1)
      throw new InvalidArgumentError(`write NAME=VALUE, where NAME is ${names.join(", ")}.`);
    return { ...before, [name]: text.slice(at + 1) };
  };
}
