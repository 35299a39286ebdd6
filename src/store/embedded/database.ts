import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import { ADMISSION_LOG, UNNAMED_PROCESS } from "./admission-log.ts";
import { isBusy, isDamaged } from "./sqlite-error.ts";

/** "LLMP": says whose file it is. */
const APPLICATION_ID = 0x4c4c4d50;
/** Raised when the tables change; older files are brought up to it here, newer ones refused. */
const SCHEMA_VERSION = 4;

/**
 * What came with format 2: the episodes' journals. Rows are only added at the end, so that a transaction writes one page of it, whatever
 * episodes it tells of; `prev` is the row before of the same episode. A settlement's row tells of its admission, too (`admit`).
 */
const AUDIT = `
  CREATE TABLE audit (
    row INTEGER PRIMARY KEY, episode INTEGER NOT NULL, seq INTEGER NOT NULL, prev INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL, admit_seq INTEGER, admit TEXT
  ) STRICT;
  ALTER TABLE reservations ADD COLUMN note TEXT;
`;

/**
 * What came with format 3: a transaction adds one row for all events and one for all entries of an episode, however many it has (`seq` is the
 * last one's), and reservations have a log of their own before they come into their table (AdmissionLog).
 */
const ROWS_OF_MANY = `
  CREATE TABLE new_events (
    episode INTEGER NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, events TEXT NOT NULL, PRIMARY KEY (episode, slot)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO new_events SELECT episode, slot, seq,
    json_array(json_object('seq', seq, 'kind', kind, 'at', at, 'data', json(data))) FROM events;
  DROP TABLE events;
  ALTER TABLE new_events RENAME TO events;
  CREATE TABLE new_audit (
    row INTEGER PRIMARY KEY, episode INTEGER NOT NULL, seq INTEGER NOT NULL, prev INTEGER NOT NULL, entries TEXT NOT NULL
  ) STRICT;
  INSERT INTO new_audit SELECT row, episode, seq, prev, json_array(json_array(seq, at, kind, json(data), json(admit))) FROM audit;
  DROP TABLE audit;
  ALTER TABLE new_audit RENAME TO audit;
  CREATE TABLE admission_log (epoch INTEGER NOT NULL) STRICT;
  INSERT INTO admission_log VALUES (0);
`;

/** What came with format 4: which process of its instance a reservation is for. Its age does not say that: the wall clock may be set back. */
const PROCESS = `
  ALTER TABLE reservations ADD COLUMN boot TEXT;
  UPDATE reservations SET boot = '${UNNAMED_PROCESS}';
`;
/** What brings a database of format 1, 2, … up to the next one. */
const STEPS = [AUDIT, ROWS_OF_MANY, PROCESS];

/**
 * Instants of an episode (`started` to `ended`) are on the scale of the process that wrote them, where `saved` was the moment of writing;
 * `boot` and `wall` are that moment on the other clocks. `charges` is `bucket:window,…`.
 */
const SCHEMA = `
  CREATE TABLE boots (row INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE) STRICT;
  CREATE TABLE episodes (
    row INTEGER PRIMARY KEY, tenant TEXT NOT NULL, id TEXT NOT NULL, settings TEXT NOT NULL, metadata TEXT NOT NULL,
    started_wall REAL NOT NULL, started REAL NOT NULL, deadline REAL NOT NULL, active REAL NOT NULL, extensions INTEGER NOT NULL,
    end_reason TEXT, ended REAL, progress_event TEXT NOT NULL, progress_wall REAL NOT NULL, seq INTEGER NOT NULL,
    saved REAL NOT NULL, boot_row INTEGER NOT NULL, boot REAL NOT NULL, wall REAL NOT NULL
  ) STRICT;
  CREATE TABLE events (
    episode INTEGER NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (episode, slot)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE buckets (
    row INTEGER PRIMARY KEY, scope TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL, episode INTEGER,
    window_seconds REAL NOT NULL, window INTEGER NOT NULL, spent INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE reservations (
    row INTEGER PRIMARY KEY, request_id TEXT NOT NULL, tenant TEXT NOT NULL, instance TEXT NOT NULL, tokens INTEGER NOT NULL,
    charges TEXT NOT NULL, episode INTEGER, at REAL NOT NULL
  ) STRICT;
  CREATE TABLE bindings (
    row INTEGER PRIMARY KEY, key TEXT NOT NULL, tenant TEXT NOT NULL, id TEXT NOT NULL, role TEXT NOT NULL, instance TEXT NOT NULL,
    episode TEXT, last_used REAL NOT NULL
  ) STRICT;
  ${STEPS.join("")}
  PRAGMA application_id = ${APPLICATION_ID};
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/**
 * The journal's database of a locked state directory; made when the directory has none. Exclusive, in WAL mode with synchronous NORMAL: a
 * commit survives the death of the process; a loss of power can take the last commits, never the file. Whatever is there and is not our
 * sound database is refused: state is never begun anew silently.
 */
export function openDatabase(dir: string): DatabaseSync {
  const path = join(dir, "state.db");
  if (!existsSync(path)) {
    for (const log of ["state.db-wal", ADMISSION_LOG])
      if (existsSync(join(dir, log))) throw refused(dir, `state.db is missing, but its log ${log} is there`);
    create(dir, path);
  }
  // SQLite would take an empty file for a new database.
  if (statSync(path).size === 0) throw refused(dir, "state.db is empty");
  const db = new DatabaseSync(path, { timeout: 0 });
  try {
    db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 4000");
    check(db, dir);
    return db;
  } catch (error) {
    db.close();
    if (isBusy(error))
      throw new LLMPoolError("store_unavailable", `another process has ${path} open`, { cause: error });
    if (isDamaged(error)) throw refused(dir, `state.db is damaged or no database (${messageOf(error)})`, error);
    throw error;
  }
}

/** The same tables in memory: they end with the process. */
export function openEphemeralDatabase(): DatabaseSync {
  const db = new DatabaseSync(":memory:");
  db.exec(SCHEMA);
  return db;
}

/** Makes and checks the directory. */
export function openDirectory(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new LLMPoolError("store_unavailable", `cannot make the state directory ${dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Under another name until it is whole: a process that dies here leaves nothing that looks like state. */
function create(dir: string, path: string): void {
  const draft = `${path}.new`;
  for (const suffix of ["", "-wal", "-shm", "-journal"]) rmSync(draft + suffix, { force: true });
  const db = new DatabaseSync(draft, { timeout: 0 });
  try {
    db.exec("PRAGMA journal_mode = WAL");
    db.exec(`BEGIN; ${SCHEMA} COMMIT`);
  } finally {
    db.close();
  }
  renameSync(draft, path);
  const folder = openSync(dir, "r");
  fsyncSync(folder);
  closeSync(folder);
}

function check(db: DatabaseSync, dir: string): void {
  if (pragma(db, "application_id") !== APPLICATION_ID) throw refused(dir, "state.db is another program's database");
  for (let version = Number(pragma(db, "user_version")); STEPS[version - 1] !== undefined; version++)
    db.exec(`BEGIN; ${STEPS[version - 1]} PRAGMA user_version = ${version + 1}; COMMIT`);
  const version = pragma(db, "user_version");
  if (version !== SCHEMA_VERSION) {
    throw new LLMPoolError(
      "store_unavailable",
      `the state in ${dir} has format ${version}, this program knows format ${SCHEMA_VERSION}: run the newer release that wrote it`,
    );
  }
  const found = db.prepare("PRAGMA quick_check(1)").get()?.quick_check;
  if (found !== "ok") throw refused(dir, `state.db is damaged (${found})`);
}

function pragma(db: DatabaseSync, name: string): unknown {
  return db.prepare(`PRAGMA ${name}`).get()?.[name];
}

function refused(dir: string, why: string, cause?: unknown): LLMPoolError {
  return new LLMPoolError(
    "store_unavailable",
    `${why}; restore ${dir} from a copy, or move it away to start anew, without its episodes, budgets and sessions`,
    { cause },
  );
}
