#!/usr/bin/env bash
# Builds the guest agent: one static binary, the same bytes from the same sources and compiler.
set -euo pipefail
if (($# != 1)); then
  echo 'Usage: guest/build.sh OUT' >&2
  exit 2
fi
out=$(realpath --no-symlinks "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
version=$(cat go.mod ./*.go ./*/*.go protocol.md | sha256sum | cut -c 1-12)
CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=local go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X hypeman/guest/agent.Version=$version" -o "$out" .
