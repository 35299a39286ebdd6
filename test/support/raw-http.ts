import { connect, type Socket } from "node:net";

/** A TCP connection that says exactly what a test gives it: what no HTTP client would send. */
export class RawConnection implements Disposable {
  readonly socket: Socket;
  /** Everything that came back so far, as latin1. */
  received = "";
  /** Resolves when the connection is closed, by whomever and however. */
  readonly closed: Promise<void>;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk) => {
      this.received += chunk.toString("latin1");
    });
    // A reset is one of the ways in which a server says no.
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
  }

  static open(url: string): Promise<RawConnection> {
    const { hostname, port } = new URL(url);
    return new Promise((resolve, reject) => {
      const socket = connect(Number(port), hostname);
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new RawConnection(socket));
      });
    });
  }

  send(bytes: string | Buffer): void {
    this.socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
  }

  /** The status codes of all final answers so far, in order: two of them for one request is a smuggled one. */
  get statuses(): number[] {
    return [...this.received.matchAll(/HTTP\/1\.1 (\d{3})/g)]
      .map(([, code]) => Number(code))
      .filter((code) => code >= 200);
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

/** One request that has to be refused; the second request inside it must never be seen. */
export interface MalformedRequest {
  name: string;
  bytes: string;
}

/** What a front and a back might read differently, and what no client sends by mistake. `smuggled` is a whole request that would be served. */
export function malformedRequests(path: string, authorization: string, smuggled: string): MalformedRequest[] {
  const start = `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: ${authorization}\r\nContent-Type: application/json\r\n`;
  const chunked = `0\r\n\r\n${smuggled}`;
  const row = (name: string, bytes: string): MalformedRequest => ({ name, bytes });
  return [
    row(
      "length and chunked together",
      `${start}Content-Length: ${chunked.length}\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
    ),
    row("chunked, then length", `${start}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${chunked}`),
    row("two lengths", `${start}Content-Length: 2\r\nContent-Length: ${2 + smuggled.length}\r\n\r\n{}${smuggled}`),
    row("the same length twice", `${start}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("a list of lengths", `${start}Content-Length: 2, 2\r\n\r\n{}${smuggled}`),
    row("a negative length", `${start}Content-Length: -2\r\n\r\n{}${smuggled}`),
    row("a length with a plus", `${start}Content-Length: +2\r\n\r\n{}${smuggled}`),
    row("a length in hexadecimal", `${start}Content-Length: 0x2\r\n\r\n{}${smuggled}`),
    row("a length beyond 64 bits", `${start}Content-Length: 18446744073709551618\r\n\r\n{}${smuggled}`),
    row("an unknown coding", `${start}Transfer-Encoding: xchunked\r\n\r\n${chunked}`),
    row("a coding after chunked", `${start}Transfer-Encoding: chunked, identity\r\n\r\n${chunked}`),
    row(
      "chunked, and another coding in a second line",
      `${start}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n${chunked}`,
    ),
    row("a space before the colon", `${start}Transfer-Encoding : chunked\r\n\r\n${chunked}`),
    row("a folded coding", `${start}Transfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n\r\n${chunked}`),
    row("a vertical tab before chunked", `${start}Transfer-Encoding: \x0bchunked\r\n\r\n${chunked}`),
    row("bare line feeds", `${`${start}Content-Length: 2\r\n\r\n`.replaceAll("\r\n", "\n")}{}${smuggled}`),
    row("one bare line feed", `${start}X-A: b\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("a bare carriage return", `${start}X-A: b\rContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("a NUL in a value", `${start}X-A: b\0c\r\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("a space in a name", `${start}X A: b\r\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("a header without a colon", `${start}Nonsense\r\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row("no Host", `${start}Content-Length: 2\r\n\r\n{}`.replace("Host: x\r\n", "")),
    row("a chunk size that is no number", `${start}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n${chunked}`),
    row(
      "a chunk size beyond 64 bits",
      `${start}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n${chunked}`,
    ),
    row("a negative chunk size", `${start}Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n${chunked}`),
    row("a chunk that is longer than its size", `${start}Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n${chunked}`),
    row("a chunk size behind a bare line feed", `${start}Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n${chunked}`),
    row("an unknown version", `${start}Content-Length: 2\r\n\r\n{}${smuggled}`.replace("HTTP/1.1", "HTTP/3.0")),
    row("no version", `POST ${path}\r\n\r\n${smuggled}`),
    row("an unknown method", `${start}Content-Length: 2\r\n\r\n{}${smuggled}`.replace("POST", "P@ST")),
    row("headers of 32 KiB", `${start}X-A: ${"a".repeat(32 * 1024)}\r\nContent-Length: 2\r\n\r\n{}${smuggled}`),
    row(
      "a path of 32 KiB",
      `${start}Content-Length: 2\r\n\r\n{}${smuggled}`.replace(path, `${path}?${"a".repeat(32 * 1024)}`),
    ),
    row("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    row("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  ];
}
