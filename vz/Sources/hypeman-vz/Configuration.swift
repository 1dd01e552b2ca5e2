// From the protocol's configuration to the framework's. The devices and their order never depend on anything else, since a saved state restores only for equal ones.

import Foundation
import Virtualization

/// Relative paths mean the working directory, which is the instance's.
func fileURL(_ path: String) -> URL {
  URL(fileURLWithPath: path)
}

func makeConfiguration(
  _ wanted: MachineConfiguration, identifier: VZGenericMachineIdentifier
) throws -> VZVirtualMachineConfiguration {
  try demandKernel(wanted.kernel)
  try demandFile(wanted.initrd)
  let made = VZVirtualMachineConfiguration()
  made.cpuCount = wanted.vcpus
  made.memorySize = wanted.memoryBytes

  let platform = VZGenericPlatformConfiguration()
  platform.machineIdentifier = identifier
  made.platform = platform

  let loader = VZLinuxBootLoader(kernelURL: fileURL(wanted.kernel))
  loader.initialRamdiskURL = fileURL(wanted.initrd)
  loader.commandLine = wanted.commandLine
  made.bootLoader = loader

  made.serialPorts = [try makeConsole(wanted.consoleLog)]
  made.consoleDevices = [try makeLogPort(wanted.appLog)]
  made.storageDevices = try wanted.disks.map(makeDisk)
  if let network = wanted.network { made.networkDevices = [try makeNetwork(network)] }
  made.entropyDevices = [VZVirtioEntropyDeviceConfiguration()]
  made.memoryBalloonDevices = [VZVirtioTraditionalMemoryBalloonDeviceConfiguration()]
  made.socketDevices = [VZVirtioSocketDeviceConfiguration()]
  return made
}

/// The guest's `hvc0`.
private func makeConsole(_ path: String) throws -> VZSerialPortConfiguration {
  let console = VZVirtioConsoleDeviceSerialPortConfiguration()
  console.attachment = try VZFileSerialPortAttachment(url: fileURL(path), append: true)
  return console
}

/// Where the guest's agent writes what the workload prints.
private func makeLogPort(_ path: String) throws -> VZConsoleDeviceConfiguration {
  let port = VZVirtioConsolePortConfiguration()
  port.name = "org.hypeman.log.0"
  port.attachment = try VZFileSerialPortAttachment(url: fileURL(path), append: true)
  let device = VZVirtioConsoleDeviceConfiguration()
  device.ports[0] = port
  return device
}

private func makeDisk(_ disk: Disk) throws -> VZStorageDeviceConfiguration {
  try demandFile(disk.path)
  // Cached by the host: without that, Linux guests are known to find their file systems damaged. What a guest flushes goes to the medium.
  let attachment = try VZDiskImageStorageDeviceAttachment(
    url: fileURL(disk.path), readOnly: disk.readOnly, cachingMode: .cached, synchronizationMode: .full)
  let device = VZVirtioBlockDeviceConfiguration(attachment: attachment)
  device.blockDeviceIdentifier = disk.id
  return device
}

private func makeNetwork(_ network: NetworkCard) throws -> VZNetworkDeviceConfiguration {
  guard let mac = VZMACAddress(string: network.mac) else {
    throw Refusal(.badRequest, "\(network.mac) is no MAC address")
  }
  let card = VZVirtioNetworkDeviceConfiguration()
  card.attachment = VZNATNetworkDeviceAttachment()
  card.macAddress = mac
  return card
}

private func demandFile(_ path: String) throws {
  guard FileManager.default.fileExists(atPath: path) else { throw Refusal(.badRequest, "\(path) does not exist") }
}

/// The loader takes anything and the guest then stands still, so what is no kernel for this Mac is told here.
/// Documentation/arch/arm64/booting.rst of Linux: the magic `ARM\x64` at byte 56 of an uncompressed Image.
private func demandKernel(_ path: String) throws {
  try demandFile(path)
  let file = try FileHandle(forReadingFrom: fileURL(path))
  defer { try? file.close() }  // it was only read
  let head = [UInt8](try file.read(upToCount: 64) ?? Data())
  if head.starts(with: [0x1f, 0x8b]) { throw Refusal(.badRequest, "the kernel \(path) is compressed: give an uncompressed Image") }
  guard head.count == 64, Array(head[56..<60]) == [0x41, 0x52, 0x4d, 0x64] else {
    throw Refusal(.badRequest, "\(path) is no Image of an arm64 kernel")
  }
}
