#!/bin/sh
# Builds the helper and signs it for this Mac: vz/build/hypeman-vz. Needs macOS 14 on Apple silicon and the command line tools of Xcode (xcode-select --install).
set -eu
cd "$(dirname "$0")"
if [ "$(uname -s)" != Darwin ] || [ "$(uname -m)" != arm64 ]; then
  echo "The helper is built and used on macOS on Apple silicon alone; this is $(uname -s) on $(uname -m)." >&2
  exit 1
fi
swift build --configuration release --arch arm64
mkdir -p build
# Under another name until it is signed: a server that runs never finds half a program.
cp "$(swift build --configuration release --arch arm64 --show-bin-path)/hypeman-vz" build/hypeman-vz.new
# Without the entitlement the framework refuses every machine. An ad hoc signature is good on the Mac that made it.
codesign --force --sign - --entitlements hypeman-vz.entitlements build/hypeman-vz.new
mv -f build/hypeman-vz.new build/hypeman-vz
build/hypeman-vz --version
