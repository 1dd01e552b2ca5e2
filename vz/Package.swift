// swift-tools-version:5.9
import PackageDescription

let package = Package(
  name: "hypeman-vz",
  platforms: [.macOS(.v14)],
  targets: [.executableTarget(name: "hypeman-vz")]
)
