/** Below this, in bytes, the worst JSON is parsed in a few milliseconds. */
const SMALL_BYTES = 256 * 1024;
const MOST_DEPTH = 512;
const MOST_VALUES = 250_000;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Why a large body would cost more to parse than it is worth, or undefined: a mebibyte of brackets takes a tenth of a second, and takes it
 * from every other caller. One look at each byte, and no more of them than it takes to refuse.
 */
export function tooCostly(body: Uint8Array): string | undefined {
  if (body.length < SMALL_BYTES) return undefined;
  let depth = 0;
  let values = 0;
  let inText = false;
  for (let i = 0; i < body.length; i++) {
    const byte = body[i];
    if (inText) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) inText = false;
    } else if (byte === QUOTE) inText = true;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      values++;
      if (++depth > MOST_DEPTH) return `is nested more than ${MOST_DEPTH} levels deep`;
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--;
    else if (byte === COMMA && ++values > MOST_VALUES) return `has more than ${MOST_VALUES} values`;
  }
  return undefined;
}
