// The one virtual machine of this process: what may be done to it in which state. The framework wants all of it on one queue; whoever asks waits on a thread of its own.

import Foundation
import Virtualization

final class Machine: NSObject, VZVirtualMachineDelegate {
  /// Everything below is touched on this queue alone.
  private let queue = DispatchQueue(label: "machine")
  private var machine: VZVirtualMachine?
  private var configuration: MachineConfiguration?
  private var identifier: VZGenericMachineIdentifier?
  private var saveRestore: String?
  private var hasRun = false

  /// Ends the process, with its exit code.
  private let end: (Int32) -> Void

  init(end: @escaping (Int32) -> Void) {
    self.end = end
  }

  func info() -> InfoAnswer {
    queue.sync {
      InfoAnswer(
        state: state, configuration: configuration, machineIdentifier: identifier?.dataRepresentation,
        saveRestore: saveRestore, balloonTargetBytes: hasRun ? balloon?.targetVirtualMachineMemorySize : nil)
    }
  }

  func create(_ request: CreateRequest) throws -> CreateAnswer {
    try queue.sync {
      guard machine == nil else {
        throw Refusal(.wrongState, "vm.create is not allowed in the state \(state.rawValue), only in Empty")
      }
      let wanted = try knownIdentifier(request.machineIdentifier)
      let made = try makeConfiguration(request.configuration, identifier: wanted)
      do { try made.validate() } catch { throw Refusal(.badRequest, "the framework does not take this configuration: \(describe(error))") }
      do { try made.validateSaveRestoreSupport() } catch { saveRestore = describe(error) }
      let created = VZVirtualMachine(configuration: made, queue: queue)
      created.delegate = self
      machine = created
      configuration = request.configuration
      identifier = wanted
      return CreateAnswer(machineIdentifier: wanted.dataRepresentation, saveRestore: saveRestore)
    }
  }

  func boot() throws {
    try finish("vm.boot", in: [.created]) { machine, done in
      self.hasRun = true
      machine.start(completionHandler: done)
    }
  }

  func restore(_ request: FileRequest) throws {
    guard FileManager.default.fileExists(atPath: request.file) else { throw Refusal(.badRequest, "\(request.file) does not exist") }
    try finish("vm.restore", in: [.created]) { machine, done in
      self.hasRun = true
      machine.restoreMachineStateFrom(url: fileURL(request.file)) { done(resultOf($0)) }
    }
  }

  func pause() throws {
    try finish("vm.pause", in: [.running]) { machine, done in machine.pause(completionHandler: done) }
  }

  /// Returns before the guest goes on.
  func resume() throws {
    try queue.sync {
      let paused = try demand([.paused], "vm.resume")
      paused.resume { result in
        if case .failure(let error) = result { report("the machine could not be resumed: \(describe(error))") }
      }
    }
  }

  func snapshot(_ request: FileRequest) throws {
    if FileManager.default.fileExists(atPath: request.file) {
      throw Refusal(.badRequest, "\(request.file) is there already: a saved state replaces no file")
    }
    if let reason = queue.sync(execute: { saveRestore }) { throw Refusal(.notSupported, "this machine can't be saved: \(reason)") }
    do {
      try finish("vm.snapshot", in: [.paused]) { machine, done in
        machine.saveMachineStateTo(url: fileURL(request.file)) { done(resultOf($0)) }
      }
    } catch let refusal as Refusal where refusal.code != .wrongState {
      unlink(request.file)  // half a state, if the framework left one
      throw refusal
    }
  }

  func setBalloon(_ request: BalloonRequest) throws {
    try queue.sync {
      try demand([.running, .paused], "vm.balloon")
      guard let balloon, let memory = configuration?.memoryBytes else {
        throw Refusal(.notSupported, "the machine has no balloon")
      }
      guard request.targetBytes > 0, request.targetBytes <= memory, request.targetBytes % 1_048_576 == 0 else {
        throw Refusal(.badRequest, "targetBytes must be whole mebibytes, at most \(memory)")
      }
      balloon.targetVirtualMachineMemorySize = request.targetBytes
    }
  }

  func pressPowerButton() throws {
    try queue.sync {
      let running = try demand([.running], "vm.power-button")
      do { try running.requestStop() } catch { throw failure(of: "vm.power-button", error) }
    }
  }

  func demandMachine() throws {
    try queue.sync {
      guard machine != nil else { throw Refusal(.wrongState, "vm.shutdown is not allowed in the state Empty") }
    }
  }

  /// The connection, or nil if nobody listens on the port. The framework never answers in some of these cases, so the wait has an end; what comes later is closed.
  func connect(toPort port: UInt32, within seconds: Double) -> VZVirtioSocketConnection? {
    let attempt = ConnectionAttempt()
    queue.async {
      guard self.state == .running, let device = self.machine?.socketDevices.first as? VZVirtioSocketDevice else {
        attempt.take(nil)
        return
      }
      device.connect(toPort: port) { attempt.take(try? $0.get()) }  // a failure says no more than that nobody listens
    }
    return attempt.wait(seconds)
  }

  // MARK: VZVirtualMachineDelegate, on the queue

  func guestDidStop(_ virtualMachine: VZVirtualMachine) {
    end(0)
  }

  func virtualMachine(_ virtualMachine: VZVirtualMachine, didStopWithError error: Error) {
    report("the machine has stopped: \(describe(error))")
    end(1)
  }

  // MARK: On the queue

  private var balloon: VZVirtioTraditionalMemoryBalloonDevice? {
    machine?.memoryBalloonDevices.first as? VZVirtioTraditionalMemoryBalloonDevice
  }

  private var state: MachineState {
    guard let machine else { return .empty }
    switch machine.state {
    case .stopped: return hasRun ? .shutdown : .created
    case .running: return .running
    case .paused: return .paused
    case .error: return .error
    case .starting: return .starting
    case .pausing: return .pausing
    case .resuming: return .resuming
    case .stopping: return .stopping
    case .saving: return .saving
    case .restoring: return .restoring
    @unknown default: return .error
    }
  }

  @discardableResult
  private func demand(_ states: [MachineState], _ operation: String) throws -> VZVirtualMachine {
    let now = state
    guard states.contains(now) else {
      let allowed = states.map(\.rawValue).joined(separator: ", ")
      throw Refusal(.wrongState, "\(operation) is not allowed in the state \(now.rawValue), only in \(allowed)")
    }
    guard let machine else { throw Refusal(.wrongState, "\(operation) needs a machine") }
    return machine
  }

  private func knownIdentifier(_ data: Data?) throws -> VZGenericMachineIdentifier {
    guard let data else { return VZGenericMachineIdentifier() }
    guard let known = VZGenericMachineIdentifier(dataRepresentation: data) else {
      throw Refusal(.badRequest, "machineIdentifier is none of the framework's")
    }
    return known
  }

  // MARK: On the asking thread

  private typealias Begin = (VZVirtualMachine, @escaping (Result<Void, Error>) -> Void) -> Void

  /// Begins something on the queue and waits for its end.
  private func finish(_ operation: String, in states: [MachineState], _ begin: Begin) throws {
    let outcome = Outcome()
    try queue.sync {
      let machine = try demand(states, operation)
      begin(machine) { outcome.take($0) }
    }
    do { try outcome.wait().get() } catch { throw failure(of: operation, error) }
  }
}

private func failure(of operation: String, _ error: Error) -> Refusal {
  Refusal(isOutOfSpace(error) ? .noSpace : .failed, "\(operation) failed: \(describe(error))")
}

private func resultOf(_ error: Error?) -> Result<Void, Error> {
  if let error { return .failure(error) }
  return .success(())
}

/// The end of something that the framework tells once.
private final class Outcome {
  private let told = DispatchSemaphore(value: 0)
  private var result: Result<Void, Error> = .success(())

  func take(_ result: Result<Void, Error>) {
    self.result = result
    told.signal()
  }

  func wait() -> Result<Void, Error> {
    told.wait()
    return result
  }
}

/// A connection that may come late, or never.
private final class ConnectionAttempt {
  private let told = DispatchSemaphore(value: 0)
  private let lock = NSLock()
  private var connection: VZVirtioSocketConnection?
  private var isOver = false

  func take(_ came: VZVirtioSocketConnection?) {
    lock.lock()
    defer { lock.unlock() }
    if isOver {
      came?.close()
    } else {
      connection = came
      told.signal()
    }
  }

  func wait(_ seconds: Double) -> VZVirtioSocketConnection? {
    _ = told.wait(timeout: .now() + seconds)
    lock.lock()
    defer { lock.unlock() }
    isOver = true
    return connection
  }
}
