/** One thing that is wrong with a manifest or a setting. */
export interface Problem {
  /** The field as a person would write it: `spec.roles[1].variant`; `""` for the whole. */
  path: string;
  /** What is wrong, and what to write instead. */
  message: string;
}

/** Everything that is wrong, at once. */
export class ManifestError extends Error {
  override readonly name = "ManifestError";
  readonly problems: readonly Problem[];

  /** `source` is what the manifest was read from, such as a file's name. */
  constructor(source: string, problems: readonly Problem[], options?: ErrorOptions) {
    const lines = problems.map(describe);
    super(
      lines.length === 1 ? `${source}: ${lines[0]}` : [`${source}: ${lines.length} problems`, ...lines].join("\n  "),
      options,
    );
    this.problems = problems;
  }
}

/** `path: message`, without the field at the head of the message when that is the end of the path. */
export function describe({ path, message }: Problem): string {
  if (path === "") return message;
  const label = /^(\S+): /.exec(message)?.[1];
  return `${path}: ${label !== undefined && path.endsWith(label) ? message.slice(label.length + 2) : message}`;
}

/** `["spec", "roles", 1, "name"]` as `spec.roles[1].name`. */
export function joinPath(path: readonly PropertyKey[]): string {
  let text = "";
  for (const step of path)
    text += typeof step === "number" ? `[${step}]` : text === "" ? String(step) : `.${String(step)}`;
  return text;
}
