// The guest's vsock ports by a unix socket: `CONNECT <port>`, `OK <port>`, and then the bytes of both sides.

import Darwin
import Foundation
import Virtualization

/// Longest first line, in bytes.
private let longestLine = 32
/// Until a guest that listens must have taken a connection, in seconds.
private let connectLimit = 2.0
private let pieceBytes = 65_536

func serveVsock(_ path: String, _ machine: Machine) throws {
  acceptConnections(try listenOn(path)) { client in
    defer { close(client) }
    guard let port = readPort(client), let guest = machine.connect(toPort: port, within: connectLimit) else { return }
    // Closed, the connection's descriptor may be another's: not before both directions have ended.
    defer { guest.close() }
    guard writeAll(client, Array("OK \(guest.sourcePort)\n".utf8)[...]) else { return }
    join(client, guest.fileDescriptor)
  }
}

/// Byte by byte: what follows the line is the guest's.
private func readPort(_ client: Int32) -> UInt32? {
  var line: [UInt8] = []
  var byte: [UInt8] = [0]
  while line.count < longestLine {
    guard readSome(client, &byte) != nil else { return nil }
    if byte[0] == UInt8(ascii: "\n") { break }
    line.append(byte[0])
  }
  let words = String(decoding: line, as: UTF8.self).split(separator: " ", omittingEmptySubsequences: false)
  guard words.count == 2, words[0] == "CONNECT" else { return nil }
  return UInt32(words[1])
}

/// Returns when both directions have ended; the end of one ends the other.
private func join(_ client: Int32, _ guest: Int32) {
  for descriptor in [client, guest] {
    let flags = fcntl(descriptor, F_GETFL)
    if flags >= 0 { _ = fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) }
  }
  let other = DispatchSemaphore(value: 0)
  Thread.detachNewThread {
    copy(from: guest, to: client)
    other.signal()
  }
  copy(from: client, to: guest)
  other.wait()
}

private func copy(from source: Int32, to target: Int32) {
  var buffer = [UInt8](repeating: 0, count: pieceBytes)
  while let count = readSome(source, &buffer), writeAll(target, buffer[..<count]) {}
  shutdown(source, SHUT_RDWR)
  shutdown(target, SHUT_RDWR)
}
