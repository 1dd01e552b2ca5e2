// A reader of server-sent events that ends an event at each empty line, whether or not it had data. Go libraries read streams so.

/** Yields the data of each event; what had none is an empty text. */
export async function* readEveryEmptyLine(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string, void, void> {
  let [rest, data] = ['', '']
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (line.startsWith('data: ')) data += line.slice('data: '.length)
      if (line !== '') continue
      yield data
      data = ''
    }
  }
}
