// The API on the control socket: HTTP/1.1, one request a connection, as far as ../../PROTOCOL.md needs it.

import Darwin
import Foundation

private let longestHead = 65_536
private let longestBody = 1_048_576

private struct Request {
  let method: String
  let path: String
  let body: Data
}

private struct Answer {
  let status: Int
  var body: Data?
  /// Ends the process once the answer is on its way.
  var ends = false
}

/// What changes the machine is carried out one after the other.
private let changes = NSLock()

func serveControl(_ path: String, _ machine: Machine, end: @escaping (Int32) -> Void) throws {
  acceptConnections(try listenOn(path)) { client in
    defer { close(client) }
    let answer: Answer
    do {
      guard let request = try readRequest(client) else { return }
      answer = try carryOut(request, machine)
    } catch {
      answer = refuse(error)
    }
    send(answer, client)
    if answer.ends { end(0) }
  }
}

private func refuse(_ error: Error) -> Answer {
  let refusal = error as? Refusal ?? Refusal(isOutOfSpace(error) ? .noSpace : .failed, describe(error))
  report("refused: \(refusal.message)")
  let body = RefusalAnswer(code: refusal.code.rawValue, message: refusal.message)
  return Answer(status: refusal.code.status, body: try? JSONEncoder().encode(body))  // two strings are always JSON
}

private func carryOut(_ request: Request, _ machine: Machine) throws -> Answer {
  let prefix = "/api/v\(protocolVersion)/"
  guard request.path.hasPrefix(prefix) else { throw unknown(request) }
  let operation = String(request.path.dropFirst(prefix.count))
  switch (request.method, operation) {
  case ("GET", "vmm.ping"):
    return try with(PingAnswer(protocol: protocolVersion, macos: macosVersion, pid: getpid()))
  case ("GET", "vm.info"):
    return try with(machine.info())
  case ("PUT", _):
    changes.lock()
    defer { changes.unlock() }
    return try change(operation, request, machine)
  default:
    throw unknown(request)
  }
}

private func change(_ operation: String, _ request: Request, _ machine: Machine) throws -> Answer {
  switch operation {
  case "vm.create":
    let wanted = try parse(CreateRequest.self, request)
    let created = try machine.create(wanted)
    // The machine is there by now: a driver that is refused here ends the process.
    try serveVsock(wanted.configuration.vsockSocket, machine)
    return try with(created)
  case "vm.boot":
    try machine.boot()
  case "vm.restore":
    try machine.restore(try parse(FileRequest.self, request))
  case "vm.pause":
    try machine.pause()
  case "vm.resume":
    try machine.resume()
    return Answer(status: 202)
  case "vm.snapshot":
    try machine.snapshot(try parse(FileRequest.self, request))
  case "vm.balloon":
    try machine.setBalloon(try parse(BalloonRequest.self, request))
  case "vm.power-button":
    try machine.pressPowerButton()
  case "vm.shutdown":
    try machine.demandMachine()
    return Answer(status: 204, ends: true)
  case "vmm.shutdown":
    return Answer(status: 204, ends: true)
  default:
    throw unknown(request)
  }
  return Answer(status: 204)
}

private func unknown(_ request: Request) -> Refusal {
  Refusal(.notFound, "there is no \(request.method) \(request.path)")
}

private func parse<T: Decodable>(_ type: T.Type, _ request: Request) throws -> T {
  do { return try JSONDecoder().decode(type, from: request.body) } catch {
    throw Refusal(.badRequest, "the body is not what \(request.path) takes: \(error)")
  }
}

private func with<T: Encodable>(_ content: T) throws -> Answer {
  Answer(status: 200, body: try JSONEncoder().encode(content))
}

/// Nil if the connection ends before there is a whole request.
private func readRequest(_ client: Int32) throws -> Request? {
  var received = Data()
  var buffer = [UInt8](repeating: 0, count: 16_384)
  let separator = Data("\r\n\r\n".utf8)
  var headEnd: Range<Data.Index>?
  while headEnd == nil {
    guard let count = readSome(client, &buffer) else { return nil }
    received.append(contentsOf: buffer[..<count])
    headEnd = received.range(of: separator)
    guard headEnd != nil || received.count <= longestHead else { throw Refusal(.badRequest, "the head of the request is too long") }
  }
  guard let head = headEnd else { return nil }
  let lines = String(decoding: received[..<head.lowerBound], as: UTF8.self).components(separatedBy: "\r\n")
  let words = lines[0].split(separator: " ")
  guard words.count == 3, words[2].hasPrefix("HTTP/1.") else { throw Refusal(.badRequest, "this is no HTTP/1.1 request") }
  let length = try contentLength(lines.dropFirst())
  var body = Data(received[head.upperBound...])
  while body.count < length {
    guard let count = readSome(client, &buffer) else { return nil }
    body.append(contentsOf: buffer[..<count])
  }
  return Request(method: String(words[0]), path: String(words[1]), body: body.prefix(length))
}

private func contentLength(_ lines: ArraySlice<String>) throws -> Int {
  for line in lines {
    let parts = line.split(separator: ":", maxSplits: 1)
    guard parts.count == 2 else { continue }
    let name = parts[0].lowercased()
    let value = parts[1].trimmingCharacters(in: .whitespaces)
    if name == "transfer-encoding" { throw Refusal(.badRequest, "a body needs a content-length") }
    guard name == "content-length" else { continue }
    guard let length = Int(value), (0...longestBody).contains(length) else {
      throw Refusal(.badRequest, "the body must have at most \(longestBody) bytes")
    }
    return length
  }
  return 0
}

private let reasons = [
  200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found", 409: "Conflict",
  500: "Internal Server Error", 501: "Not Implemented", 507: "Insufficient Storage",
]

private func send(_ answer: Answer, _ client: Int32) {
  var head = "HTTP/1.1 \(answer.status) \(reasons[answer.status] ?? "")\r\nconnection: close\r\n"
  if let body = answer.body { head += "content-type: application/json\r\ncontent-length: \(body.count)\r\n" }
  // A status of 202 may have a body: without a length its reader would wait for the connection's end.
  if answer.status == 202 { head += "content-length: 0\r\n" }
  let bytes = Array(head.utf8) + Array("\r\n".utf8) + Array(answer.body ?? Data())
  // Whoever asked may have gone: nobody is left to hear of it.
  _ = writeAll(client, bytes[...])
}
