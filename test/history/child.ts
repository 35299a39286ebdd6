/** What a child answers when it serves. */
export interface Serving {
  url: string;
}

/** From the parent: begin, something while it runs, or end and wait for the next beginning. */
export type ToChild<Config, Told> = { begin: Config } | { tell: Told } | "end";
/** To the parent. */
export type FromChild = { serving: Serving } | { failed: string } | "idle";

/**
 * The main of a child process that is told over IPC to begin, and to end, as often as the parent likes: what a start costs is paid once.
 * `begin` puts into `stack` what has to be closed at the end. It dies with its parent.
 */
export async function serve<Config, Told>(
  begin: (config: Config, stack: AsyncDisposableStack) => Promise<Serving & { told: (what: Told) => void }>,
): Promise<void> {
  const say = (message: FromChild) => void process.send?.(message);
  let stack = new AsyncDisposableStack();
  let told: (what: Told) => void = () => {};
  process.on("disconnect", () => process.exit(1));
  process.on("message", (message: ToChild<Config, Told>) => {
    if (message === "end") {
      void stack.disposeAsync().then(
        () => say("idle"),
        (error: unknown) => say({ failed: String(error) }),
      );
    } else if ("tell" in message) told(message.tell);
    else {
      stack = new AsyncDisposableStack();
      begin(message.begin, stack).then(
        ({ url, told: next }) => {
          told = next;
          say({ serving: { url } });
        },
        (error: unknown) => say({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
      );
    }
  });
  say("idle");
}
