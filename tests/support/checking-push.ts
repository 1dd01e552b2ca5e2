// A push as container libraries do it that ask before they send: nothing is sent of what the registry says it has, the image as a whole included.
// The official command line and the Go library push this way; the TypeScript client, docker and skopeo send the manifest in any case.

import assert from 'node:assert/strict'
import { gzipSync } from 'node:zlib'
import { digestOf, tarOf, type LayerEntry } from './oci.ts'

/** How the client comes to its credentials: with each request from the first on, or once the registry has asked for them. */
export type SignIn = 'at once' | 'when asked'

interface Registry {
  /** Address without a path. */
  readonly url: string
  readonly token: string
}

interface DockerImage {
  readonly manifest: Buffer
  /** Config and layers. */
  readonly blobs: readonly Buffer[]
}

/** As a Docker daemon hands images out: its own media types, layers as gzip. */
export function dockerImage(entries: readonly LayerEntry[], config: object = {}): DockerImage {
  const tar = tarOf(entries)
  const layer = gzipSync(tar)
  const configBlob = Buffer.from(
    JSON.stringify({ architecture: 'amd64', os: 'linux', config, rootfs: { type: 'layers', diff_ids: [digestOf(tar)] }, history: [] }),
  )
  const described = (mediaType: string, blob: Buffer): object => ({ mediaType, size: blob.length, digest: digestOf(blob) })
  const manifest = {
    schemaVersion: 2,
    mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
    config: described('application/vnd.docker.container.image.v1+json', configBlob),
    layers: [described('application/vnd.docker.image.rootfs.diff.tar.gzip', layer)],
  }
  return { manifest: Buffer.from(JSON.stringify(manifest)), blobs: [layer, configBlob] }
}

/** Pushes what is not there yet; returns what was uploaded: the digests of blobs, then `manifest`. */
export async function pushUnlessThere(
  registry: Registry,
  { repository, tag }: { readonly repository: string; readonly tag: string },
  image: DockerImage,
  signIn: SignIn,
): Promise<readonly string[]> {
  const send = await openRegistry(registry, signIn)
  const manifestUrl = `${registry.url}/v2/${repository}/manifests/${tag}`
  const head = await send('HEAD', manifestUrl, { accept: 'application/vnd.docker.distribution.manifest.v2+json' })
  if (head.status === 200) {
    // A library that learns less than this takes it for a broken registry.
    assert.match(head.headers.get('content-type') ?? '', /manifest/)
    assert.notEqual(head.headers.get('content-length'), null)
    if (head.headers.get('docker-content-digest') === digestOf(image.manifest)) return []
  } else assert.equal(head.status, 404)
  const uploaded: string[] = []
  for (const blob of image.blobs) if (await upload(send, `${registry.url}/v2/${repository}`, blob)) uploaded.push(digestOf(blob))
  const put = await send('PUT', manifestUrl, { 'content-type': 'application/vnd.docker.distribution.manifest.v2+json' }, image.manifest)
  assert.equal(put.status, 201, await put.text())
  return [...uploaded, 'manifest']
}

type Send = (method: string, url: string, headers?: Readonly<Record<string, string>>, body?: Buffer) => Promise<Response>

async function openRegistry({ url, token }: Registry, signIn: SignIn): Promise<Send> {
  const send = async (headers: Readonly<Record<string, string>>, method: string, target: string, body?: Buffer): Promise<Response> =>
    fetch(target, { method, headers, ...(body === undefined ? {} : { body: new Uint8Array(body) }) })
  const signedIn = { authorization: `Bearer ${token}` }
  const first = await send(signIn === 'at once' ? signedIn : {}, 'GET', `${url}/v2/`)
  if (signIn === 'at once') assert.equal(first.status, 200)
  else {
    assert.equal(first.status, 401)
    assert.match(first.headers.get('www-authenticate') ?? '', /^Bearer realm="http:\/\/[^"]+\/v2\/token",service="[^"]+"$/)
  }
  return (method, target, headers = {}, body) => send({ ...signedIn, ...headers }, method, target, body)
}

/** Begins an upload, sends the blob to it in one piece, and ends it with an empty request. False if the blob was there. */
async function upload(send: Send, repositoryUrl: string, blob: Buffer): Promise<boolean> {
  const head = await send('HEAD', `${repositoryUrl}/blobs/${digestOf(blob)}`)
  if (head.status === 200) return false
  assert.equal(head.status, 404)
  const begun = await send('POST', `${repositoryUrl}/blobs/uploads/`, { 'content-type': 'application/json' })
  assert.equal(begun.status, 202)
  const sent = await send('PATCH', nextOf(begun), { 'content-type': 'application/octet-stream' }, blob)
  assert.equal(sent.status, 202)
  const end = new URL(nextOf(sent))
  end.searchParams.set('digest', digestOf(blob))
  const ended = await send('PUT', end.href, { 'content-type': 'application/octet-stream' })
  assert.equal(ended.status, 201)
  return true
}

function nextOf(response: Response): string {
  const location = response.headers.get('location')
  assert.ok(location !== null, 'the answer says where to go on')
  return new URL(location, response.url).href
}
