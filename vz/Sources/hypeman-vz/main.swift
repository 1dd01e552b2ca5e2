// hypeman-vz: one process, one virtual machine. What it is told and answers: ../../PROTOCOL.md.

import Darwin
import Foundation
import Virtualization

private func fail(_ message: String) -> Never {
  report(message)
  exit(1)
}

/// The value of an option, which comes behind its name.
private func option(_ name: String) -> String? {
  let arguments = CommandLine.arguments
  guard let at = arguments.firstIndex(of: name), at + 1 < arguments.count else { return nil }
  return arguments[at + 1]
}

if CommandLine.arguments.dropFirst() == ["--version"] {
  print("hypeman-vz protocol \(protocolVersion) on macOS \(macosVersion)")
  exit(0)
}
guard let socketPath = option("--socket"), option("--name") != nil else {
  fail("usage: hypeman-vz --version | --name NAME --socket PATH")
}
guard VZVirtualMachine.isSupported else {
  fail("this Mac can't run virtual machines, or the helper is not signed with its entitlement (vz/build.sh)")
}
// A client that goes while it is answered ends nothing; neither does the end of the terminal or server that started this.
signal(SIGPIPE, SIG_IGN)
signal(SIGHUP, SIG_IGN)
umask(0o077)
let machine = Machine { exit($0) }
do {
  try serveControl(socketPath, machine) { exit($0) }
} catch {
  fail("the control socket can't be made: \(describe(error))")
}
dispatchMain()
