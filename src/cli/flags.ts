import { resolve } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { load } from "js-yaml";
import type { Setting } from "../api/environment.ts";
import { messageOf } from "../lib/errors.ts";

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

/** The repeatable `--set FIELD=VALUE`: a field of the spec, and its value as YAML. The newest stands first: of two of one field it wins. */
export function settings(): Option {
  const collect = (text: string, before: readonly Setting[]): readonly Setting[] => {
    const [, field, yaml = ""] = /^([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)=(.+)$/s.exec(text) ?? [];
    if (field === undefined)
      throw new InvalidArgumentError("write FIELD=VALUE, such as instances=2 or router.drainSeconds=5.");
    try {
      return [{ path: ["spec", ...field.split(".")], value: load(yaml), from: `--set ${field}` }, ...before];
    } catch (error) {
      throw new InvalidArgumentError(`the value is not YAML: ${messageOf(error).split("\n")[0]}`);
    }
  };
  return new Option(
    "--set <field=value>",
    "a field of the spec, such as instances=2; wins over the file; may be repeated",
  )
    .argParser(collect)
    .default([], "none");
}
