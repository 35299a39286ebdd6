/** A `.safetensors` file with zeros for weights: dtype and shape by tensor. */
export function makeSafetensors(tensors: Record<string, [dtype: string, shape: number[]]>): Buffer {
  const bytesOf: Record<string, number> = { F32: 4, BF16: 2, F16: 2, U8: 1 };
  let at = 0;
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, [dtype, shape]]) => {
      const from = at;
      at += shape.reduce((product, n) => product * n, bytesOf[dtype] ?? 1);
      return [name, { dtype, shape, data_offsets: [from, at] }];
    }),
  );
  const text = Buffer.from(JSON.stringify({ __metadata__: { format: "pt" }, ...header }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(at)]);
}
