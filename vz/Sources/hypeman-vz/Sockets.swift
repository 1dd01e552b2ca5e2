// Unix sockets, by the system's own calls: Foundation has none that listen.

import Darwin
import Foundation

struct SystemError: Error, CustomStringConvertible {
  let call: String
  let code: Int32

  init(_ call: String) {
    self.call = call
    code = errno
  }

  var description: String { "\(call): \(String(cString: strerror(code)))" }
}

/// Listens on a path that must not exist. Only this user may connect.
func listenOn(_ path: String) throws -> Int32 {
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  let bytes = Array(path.utf8)
  // A byte is left for the final zero.
  guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
    throw Refusal(.badRequest, "the socket path \(path) is too long")
  }
  withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
  let size = socklen_t(MemoryLayout<sockaddr_un>.size)
  address.sun_len = UInt8(size)

  let descriptor = socket(AF_UNIX, SOCK_STREAM, 0)
  guard descriptor >= 0 else { throw SystemError("socket") }
  let bound = withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, size) }
  }
  guard bound == 0 else {
    let failure = SystemError("bind \(path)")
    close(descriptor)
    if failure.code == EADDRINUSE { throw Refusal(.badRequest, "\(path) is there already: remove it first") }
    throw failure
  }
  guard chmod(path, 0o600) == 0, listen(descriptor, 64) == 0 else {
    let failure = SystemError("listen \(path)")
    close(descriptor)
    throw failure
  }
  return descriptor
}

/// Hands each connection to a thread of its own, for good.
func acceptConnections(_ listener: Int32, _ take: @escaping (Int32) -> Void) {
  Thread.detachNewThread {
    while true {
      let connection = accept(listener, nil, nil)
      if connection >= 0 {
        Thread.detachNewThread { take(connection) }
      } else if errno != EINTR && errno != ECONNABORTED {
        report("\(SystemError("accept"))")
        sleep(1)  // no descriptor may be left: the next attempt may find one
      }
    }
  }
}

/// Reads what is there; nil at the end, or when the connection breaks.
func readSome(_ descriptor: Int32, _ buffer: inout [UInt8]) -> Int? {
  while true {
    let count = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    if count > 0 { return count }
    if count == 0 || errno != EINTR { return nil }
  }
}

/// False when the connection breaks.
func writeAll(_ descriptor: Int32, _ bytes: ArraySlice<UInt8>) -> Bool {
  var rest = bytes
  while !rest.isEmpty {
    let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    if count > 0 {
      rest = rest.dropFirst(count)
    } else if errno != EINTR {
      return false
    }
  }
  return true
}

/// To standard error, which the driver keeps in a file.
func report(_ line: String) {
  FileHandle.standardError.write(Data("\(line)\n".utf8))
}
