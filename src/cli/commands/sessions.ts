import type { Command } from "commander";
import type { SessionObject } from "../../client/index.ts";
import { durationText } from "../../dev/text.ts";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { type ConnectionFlags, connect, withConnection, withKeyHelp } from "../connection.ts";
import type { CliIo } from "../io.ts";
import { type Column, LIST_OUTPUT_HELP, type ListOutput, listOutput, printList } from "../table.ts";

/** `llmpool sessions`: the conversations whose KV caches a pool keeps. */
export function registerSessions(program: Command, io: CliIo, clock: Clock = systemClock): void {
  const sessions = withKeyHelp(program.command("sessions")).description("list and free the sessions of a running pool");
  withConnection(sessions.command("list", { isDefault: true }).description("list the sessions"))
    .option("-o, --output <format>", LIST_OUTPUT_HELP, listOutput)
    .action(async ({ output, ...flags }: ConnectionFlags & { output?: ListOutput }) => {
      const { client } = connect(flags, io);
      const rows = await client.sessions({ signal: io.signal });
      if (rows.length === 0 && output === undefined) return io.stderr("there are no sessions\n");
      io.stdout(printList(rows, columns(clock.wall()), output, (row) => row.id));
    });
  withConnection(sessions.command("delete").description("free the KV cache of sessions"))
    .argument("<id...>", "session ids")
    .action(async (ids: string[], flags: ConnectionFlags) => {
      const { client } = connect(flags, io);
      for (const id of ids) {
        await client.deleteSession(id, { signal: io.signal });
        io.stdout(`session/${id} deleted\n`);
      }
    });
}

function columns(now: number): Column<SessionObject>[] {
  return [
    { title: "SESSION", cell: (row) => row.id },
    { title: "ROLE", cell: (row) => row.role },
    { title: "INSTANCE", cell: (row) => row.instance_id },
    { title: "EPISODE", cell: (row) => row.episode_id ?? "" },
    { title: "IDLE", cell: (row) => durationText((now - Date.parse(row.last_used_at)) / 1000) },
    { title: "LAST-USED", cell: (row) => row.last_used_at, wide: true },
  ];
}
