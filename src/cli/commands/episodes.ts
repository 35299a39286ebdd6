import { type Command, Option } from "commander";
import type { AuditObject, EpisodeEventObject, EpisodeObject } from "../../client/index.ts";
import { durationText } from "../../dev/text.ts";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { type Connection, type ConnectionFlags, connect, withConnection, withKeyHelp } from "../connection.ts";
import { episodeStory } from "../episode-story.ts";
import type { CliIo } from "../io.ts";
import { format, OUTPUTS, type Output } from "../output.ts";
import { type Column, LIST_OUTPUT_HELP, type ListOutput, listOutput, printList } from "../table.ts";

const SHOW_HELP = "yaml or json: the episode as it is now; jsonl: its journal, an object a line";

/** `llmpool episodes`: bounded tasks, their deadlines and budgets. */
export function registerEpisodes(program: Command, io: CliIo, clock: Clock = systemClock): void {
  const episodes = withKeyHelp(program.command("episodes")).description(
    "list, show, follow and end the episodes of a running pool",
  );

  withConnection(episodes.command("list", { isDefault: true }).description("list the episodes"))
    .option("-o, --output <format>", LIST_OUTPUT_HELP, listOutput)
    .action(async ({ output, ...flags }: ConnectionFlags & { output?: ListOutput }) => {
      const { client } = connect(flags, io);
      const rows = await client.episodes.list({ signal: io.signal });
      if (rows.length === 0 && output === undefined) return io.stderr("there are no episodes\n");
      io.stdout(printList(rows, columns(clock.wall()), output, (row) => row.id));
    });

  withConnection(episodes.command("show").description("tell what became of an episode, from its journal"))
    .argument("<id>", "episode id")
    .addOption(new Option("-o, --output <format>", SHOW_HELP).choices([...OUTPUTS, "jsonl"]))
    .action(async (id: string, { output, ...flags }: ConnectionFlags & { output?: Output | "jsonl" }) => {
      const { episodes } = connect(flags, io).client;
      const { signal } = io;
      if (output === "jsonl") {
        for await (const entry of episodes.audit(id, { signal })) io.stdout(`${JSON.stringify(entry)}\n`);
        return;
      }
      const episode = await episodes.get(id, { signal });
      if (output) return io.stdout(format(episode, output));
      const entries: AuditObject[] = [];
      for await (const entry of episodes.audit(id, { signal })) entries.push(entry);
      io.stdout(episodeStory(episode, entries));
    });

  withConnection(episodes.command("events").description("follow an episode's events until it ends"))
    .argument("<id>", "episode id")
    .addOption(new Option("-o, --output <format>", "one object a line").choices(["json"]))
    .action(async (id: string, { output, ...flags }: ConnectionFlags & { output?: "json" }) => {
      const { client } = connect(flags, io);
      for await (const event of client.episodes.events(id, { signal: io.signal })) {
        io.stdout(output === "json" ? `${JSON.stringify(event)}\n` : eventLine(event));
      }
    });

  const end = (
    name: string,
    description: string,
    done: string,
    call: (c: Connection, id: string) => Promise<unknown>,
  ) =>
    withConnection(episodes.command(name).description(description))
      .argument("<id...>", "episode ids")
      .action(async (ids: string[], flags: ConnectionFlags) => {
        const connection = connect(flags, io);
        for (const id of ids) {
          await call(connection, id);
          io.stdout(`episode/${id} ${done}\n`);
        }
      });
  const { signal } = io;
  end("finish", "end episodes as finished", "finished", ({ client }, id) => client.episodes.finish(id, { signal }));
  end("cancel", "end episodes and abort what they run", "cancelled", ({ client }, id) =>
    client.episodes.cancel(id, { signal }),
  );
}

function columns(now: number): Column<EpisodeObject>[] {
  const ago = (instant: string) => durationText((now - Date.parse(instant)) / 1000);
  return [
    { title: "EPISODE", cell: (row) => row.id },
    { title: "STATE", cell: (row) => row.end_reason ?? row.state },
    { title: "LEFT", cell: (row) => (row.state === "ended" ? "" : durationText(row.time_remaining_s)) },
    {
      title: "TOKENS",
      cell: (row) => `${row.tokens_used}${row.budget_tokens === null ? "" : `/${row.budget_tokens}`}`,
    },
    { title: "PROGRESS", cell: (row) => `${row.last_progress.event} ${ago(row.last_progress.at)} ago` },
    { title: "AGE", cell: (row) => ago(row.started_at) },
    { title: "RESERVED", cell: (row) => String(row.tokens_reserved), wide: true },
    { title: "EXTENSIONS", cell: (row) => String(row.extensions), wide: true },
    { title: "SESSIONS", cell: (row) => row.sessions.join(","), wide: true },
  ];
}

function eventLine({ event, at, episode_id: _, ...details }: EpisodeEventObject): string {
  const more = Object.entries(details).map(
    ([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`,
  );
  return `${[at ?? "", event, ...more].filter(Boolean).join("  ")}\n`;
}
