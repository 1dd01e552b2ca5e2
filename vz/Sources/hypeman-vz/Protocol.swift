// What the helper and the driver say to each other: the types of ../../PROTOCOL.md. The driver's are in src/hypervisors/vz/protocol.ts.

import Foundation

/// Version of the protocol, in paths and in `--version`.
let protocolVersion = 1

/// Product version of macOS, of which the framework is a part: `14.5`, `14.5.1`.
let macosVersion: String = {
  let version = ProcessInfo.processInfo.operatingSystemVersion
  let short = "\(version.majorVersion).\(version.minorVersion)"
  return version.patchVersion == 0 ? short : "\(short).\(version.patchVersion)"
}()

struct Disk: Codable {
  let id: String
  let path: String
  let readOnly: Bool
}

struct NetworkCard: Codable {
  let mac: String
}

/// All that a virtual machine is made from. Equal ones, but for their paths, make equal devices in equal order.
struct MachineConfiguration: Codable {
  let vcpus: Int
  let memoryBytes: UInt64
  let kernel: String
  let initrd: String
  let commandLine: String
  let disks: [Disk]
  let network: NetworkCard?
  let consoleLog: String
  let appLog: String
  let vsockSocket: String

  /// As synthesized, but for `network`, which is null and not absent where there is none.
  func encode(to encoder: Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(vcpus, forKey: .vcpus)
    try fields.encode(memoryBytes, forKey: .memoryBytes)
    try fields.encode(kernel, forKey: .kernel)
    try fields.encode(initrd, forKey: .initrd)
    try fields.encode(commandLine, forKey: .commandLine)
    try fields.encode(disks, forKey: .disks)
    try fields.encode(network, forKey: .network)
    try fields.encode(consoleLog, forKey: .consoleLog)
    try fields.encode(appLog, forKey: .appLog)
    try fields.encode(vsockSocket, forKey: .vsockSocket)
  }
}

struct PingAnswer: Encodable {
  let `protocol`: Int
  let macos: String
  let pid: Int32
}

struct CreateRequest: Decodable {
  let configuration: MachineConfiguration
  /// base64
  let machineIdentifier: Data?
}

struct CreateAnswer: Encodable {
  let machineIdentifier: Data
  let saveRestore: String?

  enum CodingKeys: String, CodingKey {
    case machineIdentifier, saveRestore
  }

  func encode(to encoder: Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(machineIdentifier, forKey: .machineIdentifier)
    try fields.encode(saveRestore, forKey: .saveRestore)
  }
}

struct FileRequest: Decodable {
  let file: String
}

struct BalloonRequest: Decodable {
  let targetBytes: UInt64
}

struct InfoAnswer: Encodable {
  let state: MachineState
  let configuration: MachineConfiguration?
  let machineIdentifier: Data?
  let saveRestore: String?
  let balloonTargetBytes: UInt64?

  enum CodingKeys: String, CodingKey {
    case state, configuration, machineIdentifier, saveRestore, balloonTargetBytes
  }

  func encode(to encoder: Encoder) throws {
    var fields = encoder.container(keyedBy: CodingKeys.self)
    try fields.encode(state, forKey: .state)
    try fields.encode(configuration, forKey: .configuration)
    try fields.encode(machineIdentifier, forKey: .machineIdentifier)
    try fields.encode(saveRestore, forKey: .saveRestore)
    try fields.encode(balloonTargetBytes, forKey: .balloonTargetBytes)
  }
}

enum MachineState: String, Encodable {
  case empty = "Empty"
  case created = "Created"
  case starting = "Starting"
  case running = "Running"
  case pausing = "Pausing"
  case paused = "Paused"
  case resuming = "Resuming"
  case saving = "Saving"
  case restoring = "Restoring"
  case stopping = "Stopping"
  case shutdown = "Shutdown"
  case error = "Error"
}

/// An operation that is not carried out. The message is for people and says what to do.
struct Refusal: Error {
  enum Code: String {
    case badRequest = "bad_request"
    case notFound = "not_found"
    case wrongState = "wrong_state"
    case failed = "failed"
    case notSupported = "not_supported"
    case noSpace = "no_space"

    var status: Int {
      switch self {
      case .badRequest: return 400
      case .notFound: return 404
      case .wrongState: return 409
      case .failed: return 500
      case .notSupported: return 501
      case .noSpace: return 507
      }
    }
  }

  let code: Code
  let message: String

  init(_ code: Code, _ message: String) {
    self.code = code
    self.message = message
  }
}

struct RefusalAnswer: Encodable {
  let code: String
  let message: String
}

/// An error of the framework's or the system's: its domain, code and words, and those of what it was caused by.
func describe(_ error: Error) -> String {
  if let refusal = error as? Refusal { return refusal.message }
  if let known = error as? SystemError { return known.description }
  let known = error as NSError
  let reason = known.localizedFailureReason.map { " (\($0))" } ?? ""
  let words = "\(known.domain) \(known.code): \(known.localizedDescription)\(reason)"
  guard let cause = known.userInfo[NSUnderlyingErrorKey] as? NSError else { return words }
  return "\(words); \(describe(cause))"
}

/// True if an error, or what it was caused by, is that of a full disk.
func isOutOfSpace(_ error: Error) -> Bool {
  let known = error as NSError
  if known.domain == NSPOSIXErrorDomain, known.code == Int(ENOSPC) { return true }
  if known.domain == NSCocoaErrorDomain, known.code == NSFileWriteOutOfSpaceError { return true }
  guard let cause = known.userInfo[NSUnderlyingErrorKey] as? NSError else { return false }
  return isOutOfSpace(cause)
}
