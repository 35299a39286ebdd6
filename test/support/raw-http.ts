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

/** A request that has nothing wrong with it. */
export function wholeRequest(path: string, body: string, headers = ""): string {
  return `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}Content-Length: ${body.length}\r\n\r\n${body}`;
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

/** What one server takes and another refuses, and what may be read as one request or as two: counts have to agree, whoever is right. */
export function doubtfulRequests(path: string, body: string, smuggled: string): MalformedRequest[] {
  const start = `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n`;
  const length = `Content-Length: ${body.length}\r\n`;
  const coded = "Transfer-Encoding: chunked\r\n";
  const size = body.length.toString(16);
  const chunks = `${size}\r\n${body}\r\n0\r\n\r\n`;
  const row = (name: string, bytes: string): MalformedRequest => ({ name, bytes });
  return [
    row("a length of nothing in front of a request", `${start}Content-Length: 0\r\n\r\n${smuggled}`),
    row("no length in front of a request", `${start}\r\n${smuggled}`),
    row("GET with a body", `GET ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`),
    row(
      "HEAD with a body",
      `HEAD ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    ),
    row("a body that is cut", `${start}Content-Length: ${body.length + smuggled.length + 4000}\r\n\r\n${body}`),
    row("Expect: 100-continue", `${start}Expect: 100-continue\r\n${length}\r\n${body}`),
    row("Expect: something else", `${start}Expect: 200-ok\r\n${length}\r\n${body}`),
    row("Expect, and a body that is not sent", `${start}Expect: 100-continue\r\n${length}\r\n`),
    row("chunks", `${start}${coded}\r\n${chunks}`),
    row("Chunked in capitals", `${start}Transfer-Encoding: CHUNKED\r\n\r\n${chunks}`),
    row("chunked behind a tab", `${start}Transfer-Encoding:\tchunked\r\n\r\n${chunks}`),
    row("chunked before spaces", `${start}Transfer-Encoding: chunked  \r\n\r\n${chunks}`),
    row("chunked in quotes", `${start}Transfer-Encoding: "chunked"\r\n\r\n${chunks}`),
    row("chunked twice", `${start}Transfer-Encoding: chunked, chunked\r\n\r\n${chunks}`),
    row("gzip, chunked", `${start}Transfer-Encoding: gzip, chunked\r\n\r\n${chunks}`),
    row("identity", `${start}Transfer-Encoding: identity\r\n${length}\r\n${body}`),
    row("an empty coding", `${start}Transfer-Encoding:\r\n${length}\r\n${body}`),
    row("chunked in HTTP/1.0", `${start}${coded}\r\n${chunks}`.replace("HTTP/1.1", "HTTP/1.0")),
    row("a chunk extension", `${start}${coded}\r\n${size};a=b\r\n${body}\r\n0\r\n\r\n`),
    row("a chunk extension in quotes", `${start}${coded}\r\n${size};a="b;c"\r\n${body}\r\n0;d\r\n\r\n`),
    row("a bare line feed in a chunk extension", `${start}${coded}\r\n${size};a\n${body}\r\n0\r\n\r\n${smuggled}`),
    row("a chunk extension of 64 KiB", `${start}${coded}\r\n${size};${"a".repeat(65_536)}\r\n${body}\r\n0\r\n\r\n`),
    row("zeros in front of a chunk size", `${start}${coded}\r\n0000${size}\r\n${body}\r\n000\r\n\r\n`),
    row("a space behind a chunk size", `${start}${coded}\r\n${size} \r\n${body}\r\n0\r\n\r\n`),
    row("a space in front of a chunk size", `${start}${coded}\r\n ${size}\r\n${body}\r\n0\r\n\r\n`),
    row("0x in front of a chunk size", `${start}${coded}\r\n0x${size}\r\n${body}\r\n0\r\n\r\n`),
    row("a chunk without its end", `${start}${coded}\r\n${size}\r\n${body}0\r\n\r\n${smuggled}`),
    row("a trailer that sets the length", `${start}${coded}\r\n${size}\r\n${body}\r\n0\r\nContent-Length: 9\r\n\r\n`),
    row("a request in the trailer", `${start}${coded}\r\n${size}\r\n${body}\r\n0\r\n${smuggled}`),
    row("a length in another spelling", `${start}Content_Length: 0\r\n${length}\r\n${body}`),
    row("spaces around a length", `${start}Content-Length:  ${body.length} \r\n\r\n${body}`),
    row("zeros in front of a length", `${start}Content-Length: 00${body.length}\r\n\r\n${body}`),
    row("a length with an underscore in it", `${start}Content-Length: 1_0\r\n\r\n${body}`),
    row("an empty length", `${start}Content-Length:\r\n\r\n${smuggled}`),
    row("a length that is no number", `${start}Content-Length: a\r\n\r\n${smuggled}`),
    row("two hosts", `${start}Host: y\r\n${length}\r\n${body}`),
    row("a host with a path", `${start}${length}\r\n${body}`.replace("Host: x", "Host: x/y")),
    row("another host in the target", `${start}${length}\r\n${body}`.replace(path, `http://other${path}`)),
    row("a target without a path", `${start}${length}\r\n${body}`.replace(path, "x")),
    row("a fragment in the target", `${start}${length}\r\n${body}`.replace(path, `${path}#x`)),
    row("a space in the target", `${start}${length}\r\n${body}`.replace(path, `${path} x`)),
    row("line ends in front of a request", `\r\n\r\n${start}${length}\r\n${body}`),
    row("a folded header", `${start}X-A: b\r\n c\r\n${length}\r\n${body}`),
    row("a space in front of the first header", `POST ${path} HTTP/1.1\r\n Host: x\r\nHost: x\r\n${length}\r\n${body}`),
    row("a request, and behind it one that is none", `${smuggled}${start}X A: b\r\n${length}\r\n${body}`),
    row("a request, and behind it chunks that are none", `${smuggled}${start}${coded}\r\nzz\r\n${body}\r\n0\r\n\r\n`),
    row("an upgrade", `${start}Connection: Upgrade\r\nUpgrade: h2c\r\n${length}\r\n${body}`),
    row("a length that the connection header takes away", `${start}Connection: content-length\r\n${length}\r\n${body}`),
    row("a byte beyond ASCII in a name", `${start}X-\xe4: b\r\n${length}\r\n${body}`),
    row("an unknown method without a body", `${start}\r\n`.replace("POST", "FOO")),
    row("a method in small letters", `${start}${length}\r\n${body}`.replace("POST", "post")),
  ];
}
