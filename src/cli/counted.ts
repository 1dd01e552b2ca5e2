// Bytes that are counted on their way, so that a transfer can be watched.

export async function* counted(bytes: AsyncIterable<Uint8Array>, tell: (total: number) => void): AsyncGenerator<Uint8Array> {
  let total = 0
  tell(0)
  for await (const chunk of bytes) {
    total += chunk.length
    tell(total)
    yield chunk
  }
}
