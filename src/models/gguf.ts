/**
 * The header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata and tensor table. It is read here before
 * the native loader sees the file, because that one gives no reason when it refuses, and because chat template, control tokens and KV
 * sizes come from it.
 */
export interface GgufHeader {
  /** Numbers, texts and truth values; of arrays only the short ones and those of WANTED_ARRAYS. */
  metadata: ReadonlyMap<string, MetadataValue>;
  tensors: readonly GgufTensor[];
  /** Length of the header in bytes, padding included: the tensors' data begins here. */
  dataStart: number;
}

export type MetadataValue = number | boolean | string | readonly (number | boolean | string)[];

export interface GgufTensor {
  name: string;
  type: number;
  /** From the start of the data. */
  offset: number;
  /** Absent when the type is not known here. */
  bytes?: number;
}

/** The header goes on behind the end of the given bytes. */
export class HeaderIncomplete extends Error {}
/** No reader could make sense of these bytes. */
export class HeaderInvalid extends Error {}

const WANTED_ARRAYS = new Set(["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"]);
const SHORT_ARRAY = 4096;
/** More than any model has; what is larger is damage, and walking through it would take for ever. */
const MOST = { keys: 65_536, tensors: 1_000_000, name: 1024, dimensions: 4 };

const TYPE = { string: 8, array: 9, bool: 7 };
const NUMBER_BYTES: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };

/** Elements and bytes of one block per ggml type (ggml.h). */
const BLOCKS: Record<number, readonly [elements: number, bytes: number]> = {
  0: [1, 4], // F32
  1: [1, 2], // F16
  2: [32, 18], // Q4_0
  3: [32, 20], // Q4_1
  6: [32, 22], // Q5_0
  7: [32, 24], // Q5_1
  8: [32, 34], // Q8_0
  9: [32, 40], // Q8_1
  10: [256, 84], // Q2_K
  11: [256, 110], // Q3_K
  12: [256, 144], // Q4_K
  13: [256, 176], // Q5_K
  14: [256, 210], // Q6_K
  15: [256, 292], // Q8_K
  16: [256, 66], // IQ2_XXS
  17: [256, 74], // IQ2_XS
  18: [256, 98], // IQ3_XXS
  19: [256, 50], // IQ1_S
  20: [32, 18], // IQ4_NL
  21: [256, 110], // IQ3_S
  22: [256, 82], // IQ2_S
  23: [256, 136], // IQ4_XS
  24: [1, 1], // I8
  25: [1, 2], // I16
  26: [1, 4], // I32
  27: [1, 8], // I64
  28: [1, 8], // F64
  29: [256, 56], // IQ1_M
  30: [1, 2], // BF16
  34: [256, 54], // TQ1_0
  35: [256, 66], // TQ2_0
  39: [32, 17], // MXFP4
  40: [64, 36], // NVFP4
};

/** Reads the header from the file's first bytes. Throws HeaderIncomplete when it needs more of them, HeaderInvalid when it is damaged. */
export function parseHeader(bytes: Buffer): GgufHeader {
  const read = new Reader(bytes);
  if (read.take(4).toString("latin1") !== "GGUF") throw new HeaderInvalid("it does not begin with GGUF");
  const version = read.u32();
  if (version !== 2 && version !== 3) {
    throw new HeaderInvalid(
      version % 65_536 === 0 ? "it is a big-endian GGUF" : `it has GGUF version ${version}, not 2 or 3`,
    );
  }
  const tensorCount = read.count(MOST.tensors, "tensors");
  const keyCount = read.count(MOST.keys, "metadata keys");
  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = read.text(MOST.name);
    const value = readValue(read, key, read.u32());
    if (value !== undefined) metadata.set(key, value);
  }
  const tensors = Array.from({ length: tensorCount }, () => readTensor(read));
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || alignment < 1 || alignment > 65_536)
    throw new HeaderInvalid("its alignment is damaged");
  return { metadata, tensors, dataStart: Math.ceil(read.at / alignment) * alignment };
}

function readValue(read: Reader, key: string, type: number): MetadataValue | undefined {
  if (type === TYPE.string) return read.text();
  if (type !== TYPE.array) return read.number(type);
  const elementType = read.u32();
  const length = read.count(Number.MAX_SAFE_INTEGER, "array elements");
  const wanted = length <= SHORT_ARRAY || WANTED_ARRAYS.has(key);
  const values: (number | boolean | string)[] = [];
  if (elementType !== TYPE.string) {
    const size = NUMBER_BYTES[elementType];
    if (size === undefined) throw new HeaderInvalid(`the metadata ${key} has an array of type ${elementType}`);
    if (!wanted) return read.skip(size * length);
    for (let i = 0; i < length; i++) values.push(read.number(elementType));
    return values;
  }
  for (let i = 0; i < length; i++) {
    if (wanted) values.push(read.text());
    else read.skip(read.length());
  }
  return wanted ? values : undefined;
}

function readTensor(read: Reader): GgufTensor {
  const name = read.text(MOST.name);
  const dimensions = read.u32();
  if (dimensions > MOST.dimensions) throw new HeaderInvalid(`tensor ${name} has ${dimensions} dimensions`);
  let elements = 1;
  for (let i = 0; i < dimensions; i++) elements *= read.length();
  const type = read.u32();
  const offset = read.length();
  const block = BLOCKS[type];
  if (!Number.isSafeInteger(elements)) throw new HeaderInvalid(`tensor ${name} is larger than any file`);
  return { name, type, offset, ...(block && { bytes: Math.ceil(elements / block[0]) * block[1] }) };
}

class Reader {
  readonly #bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  take(length: number): Buffer {
    const start = this.at;
    this.skip(length);
    return this.#bytes.subarray(start, this.at);
  }

  skip(length: number): undefined {
    if (this.at + length > this.#bytes.length) throw new HeaderIncomplete();
    this.at += length;
  }

  u32(): number {
    return this.take(4).readUInt32LE();
  }

  /** A 64-bit length; what no file can have is damage. */
  length(): number {
    const value = this.take(8).readBigUInt64LE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new HeaderInvalid("a length in its header is damaged");
    return Number(value);
  }

  count(most: number, what: string): number {
    const value = this.length();
    if (value > most) throw new HeaderInvalid(`it claims ${value} ${what}`);
    return value;
  }

  text(most = Number.MAX_SAFE_INTEGER): string {
    return this.take(this.count(most, "bytes in one name")).toString("utf8");
  }

  number(type: number): number | boolean {
    const size = NUMBER_BYTES[type];
    if (size === undefined) throw new HeaderInvalid(`its metadata has a value of type ${type}`);
    const raw = this.take(size);
    if (type === TYPE.bool) return raw[0] !== 0;
    if (type === 6) return raw.readFloatLE();
    if (type === 12) return raw.readDoubleLE();
    if (type === 10) return Number(raw.readBigUInt64LE());
    if (type === 11) return Number(raw.readBigInt64LE());
    return type % 2 === 0 ? raw.readUIntLE(0, size) : raw.readIntLE(0, size);
  }
}
