import { crc32, deflateRawSync } from "node:zlib";

export interface ZipInput {
  name: string;
  content: Buffer;
  stored?: boolean;
  /** Overrides of what the directory says: for damaged archives. */
  say?: { size?: number; crc?: number; headerAt?: number; compressed?: number };
}

/** A zip archive, as wheels are. */
export function makeZip(inputs: readonly ZipInput[], comment = ""): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, content, stored = false, say = {} } of inputs) {
    const body = stored ? content : deflateRawSync(content);
    const nameBytes = Buffer.from(name);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(stored ? 0 : 8, 4);
    common.writeUInt32LE(say.crc ?? crc32(content), 10);
    common.writeUInt32LE(say.compressed ?? body.length, 14);
    common.writeUInt32LE(say.size ?? content.length, 18);
    common.writeUInt16LE(nameBytes.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04", "latin1"), common, nameBytes, body]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(say.headerAt ?? at, 10);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00", "latin1"), common, tail, nameBytes]));
    locals.push(local);
    at += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", 0, "latin1");
  end.writeUInt16LE(inputs.length, 8);
  end.writeUInt16LE(inputs.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(at, 16);
  end.writeUInt16LE(comment.length, 20);
  return Buffer.concat([...locals, central, end, Buffer.from(comment)]);
}
