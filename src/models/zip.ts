import { type FileHandle, open } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { crc32, createInflateRaw } from "node:zlib";
import { StartError } from "../api/instance.ts";

/** A file inside a zip archive, as its central directory has it. Sizes in bytes. */
export interface ZipMember {
  name: string;
  method: "stored" | "deflated";
  compressed: number;
  size: number;
  crc: number;
  headerAt: number;
}

const END = 0x06054b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const MAX_END_BYTES = 22 + 0xffff;
const MAX_DIRECTORY_BYTES = 64 * 2 ** 20;

/**
 * The plain files of a zip archive (APPNOTE 6.3.10: no encryption, no zip64, one disk), each within the archive's bounds.
 * Throws StartError `ModelInvalid` for anything else.
 */
export async function listZip(file: FileHandle, path: string): Promise<ZipMember[]> {
  const { size } = await file.stat();
  const tail = await readAt(file, path, Math.max(0, size - MAX_END_BYTES), Math.min(size, MAX_END_BYTES));
  const at = findEnd(tail);
  if (at < 0) throw damaged(path, "it has no end record");
  const count = tail.readUInt16LE(at + 10);
  const length = tail.readUInt32LE(at + 12);
  const start = tail.readUInt32LE(at + 16);
  if (count === 0xffff || start === 0xffffffff) throw damaged(path, "zip64 archives are not read");
  const endAt = size - tail.length + at;
  if (start + length > endAt || length > MAX_DIRECTORY_BYTES) throw damaged(path, "its directory is out of bounds");
  const directory = await readAt(file, path, start, length);
  const members: ZipMember[] = [];
  let offset = 0;
  for (let index = 0; index < count; index++) {
    if (offset + 46 > length || directory.readUInt32LE(offset) !== CENTRAL)
      throw damaged(path, "its directory is damaged");
    const nameLength = directory.readUInt16LE(offset + 28);
    const next = offset + 46 + nameLength + directory.readUInt16LE(offset + 30) + directory.readUInt16LE(offset + 32);
    if (next > length) throw damaged(path, "its directory is damaged");
    const name = directory.toString("utf8", offset + 46, offset + 46 + nameLength);
    const method = directory.readUInt16LE(offset + 10);
    const encrypted = (directory.readUInt16LE(offset + 8) & 1) !== 0;
    const member = {
      name,
      compressed: directory.readUInt32LE(offset + 20),
      size: directory.readUInt32LE(offset + 24),
      crc: directory.readUInt32LE(offset + 16),
      headerAt: directory.readUInt32LE(offset + 42),
    };
    if (!encrypted && (method === 0 || method === 8) && !name.endsWith("/")) {
      if (member.headerAt + 30 + member.compressed > start) throw damaged(path, `${name} is out of bounds`);
      members.push({ ...member, method: method === 0 ? "stored" : "deflated" });
    }
    offset = next;
  }
  return members;
}

/** Passes the member's bytes to `write`, in order; never more than its directory entry says, and all of them or a rejection. */
export async function extract(
  file: FileHandle,
  path: string,
  member: ZipMember,
  write: (chunk: Buffer) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const header = await readAt(file, path, member.headerAt, 30);
  if (header.readUInt32LE(0) !== LOCAL) throw damaged(path, `${member.name} is not where it should be`);
  const start = member.headerAt + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  let size = 0;
  let crc = 0;
  const check = async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) {
      size += chunk.length;
      if (size > member.size) throw damaged(path, `${member.name} is bigger than it says`);
      crc = crc32(chunk, crc);
      await write(chunk);
    }
  };
  if (member.compressed > 0) {
    const end = start + member.compressed - 1;
    const source = file.createReadStream({ start, end, autoClose: false, highWaterMark: 2 ** 20 });
    try {
      if (member.method === "stored") await pipeline(source, check, { signal });
      else await pipeline(source, createInflateRaw({ chunkSize: 2 ** 20 }), check, { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof Error && "code" in error && String(error.code).startsWith("Z_")) {
        throw damaged(path, `${member.name} cannot be unpacked`);
      }
      throw error;
    }
  }
  if (size !== member.size || crc !== member.crc) throw damaged(path, `${member.name} is damaged`);
}

export function openZip(path: string): Promise<FileHandle> {
  return open(path, "r");
}

/** The end record is the last thing but its comment, whose length must fit: that rules out a signature inside a comment. */
function findEnd(tail: Buffer): number {
  for (let at = tail.length - 22; at >= 0; at--) {
    if (tail.readUInt32LE(at) === END && at + 22 + tail.readUInt16LE(at + 20) === tail.length) return at;
  }
  return -1;
}

async function readAt(file: FileHandle, path: string, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  if (bytesRead !== length) throw damaged(path, "it is cut short");
  return buffer;
}

function damaged(path: string, why: string): StartError {
  return new StartError("ModelInvalid", `${path} is no usable wheel: ${why}`);
}
